"""Is it learning, and what is it worth: checks of features, region-similarity maps and the report of the quickstart."""
