"""Losses: pure functions on embeddings."""
