"""Use of private parts of other libraries: confined to this package, and checked before use."""
