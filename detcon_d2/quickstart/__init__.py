"""The built-in images, the stages of the quickstart and of its experiments, and the report."""
