"""The verbs of the command line: for each, its options and its work."""
