"""Losses: pure functions on embeddings."""

from detcon_d2.losses.detcon import detcon_loss

__all__ = ["detcon_loss"]
