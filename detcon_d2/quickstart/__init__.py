"""The built-in images, the quickstart, the experiment that compares methods, and the report."""
