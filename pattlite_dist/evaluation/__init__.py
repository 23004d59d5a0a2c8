"""Predictions of a run, their scores, and how two runs are compared."""
