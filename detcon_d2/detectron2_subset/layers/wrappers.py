"""A convolution with norm and activation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Conv2d(nn.Conv2d):
    """``nn.Conv2d``, then ``norm``, then ``activation``, each if it is given; parameters are ``weight``, ``bias`` and ``norm.*``."""

    def __init__(
        self, *args: Any, norm: nn.Module | None = None, activation: Callable[[torch.Tensor], torch.Tensor] | None = None, **kwargs: Any
    ) -> None:
        """Positional and other keyword arguments are those of ``nn.Conv2d``."""
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, out_channels, H', W'); N may be 0."""
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)
