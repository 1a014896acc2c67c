"""Losses of the pretext tasks and of methods of single images: pure functions on embeddings."""
