"""A frozen encoder: the backbone of any checkpoint that the converter reads, or one without training, and the features that it computes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.checkpoint.convert.readers import Backbone
from detcon_d2.checkpoint.convert.spec import ASSUMED, IMAGE_KEYS, BackboneSpec
from detcon_d2.checkpoint.convert.verify import build_encoder
from detcon_d2.checkpoint.metadata import network_metadata
from detcon_d2.modeling.backbone import zero_init_residual
from detcon_d2.modeling.probe import LinearProbe


class FrozenEncoder(nn.Module):
    """Pooled features of a backbone that never trains: BatchNorm uses its running statistics, and no call changes a tensor of it."""

    def __init__(self, spec: BackboneSpec, metadata: Mapping[str, Any]):
        """A network with random weights.

        Args:
            spec: of the backbone.
            metadata: ``channel_order``, ``pixel_mean`` and ``pixel_std`` (0..255) of the images; DetCon's where an entry is missing.

        Raises ValueError: no config builds the backbone.
        """
        super().__init__()
        if not spec.has_config:
            raise ValueError(f"No config builds a {spec.describe()}, so its features cannot be computed. Expected 64 channels in res2.")
        self.settings = spec.settings()
        self.images = {name: (ASSUMED | dict(metadata))[name] for name in IMAGE_KEYS}
        self.network = build_encoder(spec)
        self.feature = spec.stage_names[-1]
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, torch.tensor(self.images[name], dtype=torch.float32).view(-1, 1, 1), False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stay in evaluation mode, whatever ``mode`` is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The mean over the cells of the last stage's features: uint8 (N, 3, H, W) RGB -> float32 (N, C), on the encoder's device."""
        pixels = images.to(self.pixel_mean.device).float()
        pixels = pixels.flip(1) if self.images["channel_order"] == "BGR" else pixels
        pixels = ((pixels - self.pixel_mean) / self.pixel_std).contiguous(memory_format=torch.channels_last)
        return LinearProbe.pool(self.network(pixels)[self.feature])

    def digest(self) -> str:
        """Hash of everything that the features depend on except the images."""
        digest = hashlib.sha256(json.dumps([self.settings, self.images], sort_keys=True).encode())
        for name, tensor in self.network.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def trained_encoder(backbone: Backbone) -> FrozenEncoder:
    """The encoder of a checkpoint, with its own pixel statistics and channel order."""
    encoder = FrozenEncoder(backbone.spec, backbone.metadata)
    encoder.network.load_state_dict(backbone.tensors, strict=True)
    return encoder


def random_encoder(cfg: "d2.CfgNode") -> FrozenEncoder:
    """The encoder that a config describes before training, initialised from SEED (0 if it is negative)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(max(cfg.SEED, 0))
        encoder = FrozenEncoder(BackboneSpec.from_config(cfg), network_metadata(cfg))
        if cfg.DETCON.ZERO_INIT_RESIDUAL:
            zero_init_residual(encoder.network)
    return encoder
