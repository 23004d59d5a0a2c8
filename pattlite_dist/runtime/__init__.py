"""The process at run time: its rank, its device, and the signals that stop it."""
