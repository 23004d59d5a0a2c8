"""Training: the Lightning module, optimisation, checkpoints, and the run that combines them."""
