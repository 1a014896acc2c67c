"""Finished runs side by side: one table, one HTML file."""
