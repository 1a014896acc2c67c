"""Comparisons of pretraining methods on any data, over seeds, budgets and numbers of labels."""
