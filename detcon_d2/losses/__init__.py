"""Losses: pure functions on embeddings."""

from detcon_d2.losses.byol import byol_loss
from detcon_d2.losses.densecl import DenseCLEmbeddings, densecl_losses, densecl_match
from detcon_d2.losses.detcon import detcon_loss
from detcon_d2.losses.dino import dino_loss, next_center
from detcon_d2.losses.info_nce import info_nce_logits, info_nce_loss
from detcon_d2.losses.nt_xent import nt_xent_loss, sup_con_loss
from detcon_d2.losses.pixpro import pixpro_instance_loss, pixpro_loss, propagate_pixels
from detcon_d2.losses.swav import sinkhorn_codes, swav_loss

__all__ = [
    "DenseCLEmbeddings",
    "byol_loss",
    "densecl_losses",
    "densecl_match",
    "detcon_loss",
    "dino_loss",
    "info_nce_logits",
    "info_nce_loss",
    "next_center",
    "nt_xent_loss",
    "pixpro_instance_loss",
    "pixpro_loss",
    "propagate_pixels",
    "sinkhorn_codes",
    "sup_con_loss",
    "swav_loss",
]
