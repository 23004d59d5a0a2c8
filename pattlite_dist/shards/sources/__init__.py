"""Readers of the forms in which people hold a data set, behind one small interface."""
