"""What a run leaves to be read: its folder, record, history, curves, and its W&B run."""
