"""Annotated data sets of any common format, read and checked; each format is one file."""
