"""A run as one file that is used without it."""
