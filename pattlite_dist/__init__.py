"""Distributed training for facial-expression recognition with PAtt-Lite."""

__version__ = "0.1.0"
