"""Label maps against ground truth: scores, tables, contact sheets."""
