"""Predictions of a run, their scores, and the comparison of two runs."""
