"""Projector and predictor: the two-layer perceptrons of BYOL, applied to every sampled region."""

import math

import torch
from torch import nn

from detcon_d2 import d2


class DetConHead(nn.Module):
    """Linear(in, hidden, bias), BatchNorm, ReLU, Linear(hidden, out, no bias) on the last axis (method.md, "Networks").

    BatchNorm's statistics run over all N * M rows (and over processes, with a synchronised ``norm``, a name of Detectron2's ``get_norm``).
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, norm: str = "SyncBN"):
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.norm = d2.get_norm(norm, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim, bias=False)
        for layer in (self.fc1, self.fc2):
            # The released code's default: normal of stddev 1/sqrt(fan_in), truncated at two of them; bias zero.
            std = 1.0 / math.sqrt(layer.in_features)
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(self.fc1.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_dim) float -> (..., out_dim) float."""
        rows = self.fc1(x.flatten(0, -2))
        # As a 1x1 image, so that every norm of Detectron2 (some take four axes only) fits.
        rows = self.norm(rows[:, :, None, None]).flatten(1).relu()
        return self.fc2(rows).unflatten(0, x.shape[:-1])
