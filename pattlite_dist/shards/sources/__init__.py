"""Readers of the formats in which people store data sets, behind one small interface."""
