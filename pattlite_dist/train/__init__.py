"""Training: the Lightning module, the optimiser's path, recovery, and the run that joins them."""
