"""Conversion of data sets as people store them to verified WebDataset shards."""
