"""The report of the quickstart: one HTML file."""
