"""A run that lives in a bucket: published from a process of its own, by one owner at a time."""
