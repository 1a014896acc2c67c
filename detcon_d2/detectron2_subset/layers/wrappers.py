"""Torch operations with a little more."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Conv2d(nn.Conv2d):
    """``nn.Conv2d``, then ``norm``, then ``activation``, each if given; parameters are ``weight``, ``bias`` and ``norm.*``."""

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


def cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """``torch.cat`` of a list or tuple, without a copy of a single tensor."""
    assert isinstance(tensors, list | tuple), f"cat takes a list or tuple, found {type(tensors).__name__}."
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """One int64 vector of indices for each dimension of ``x``, of its nonzero elements."""
    return torch.nonzero(x, as_tuple=True)


def cross_entropy(input: torch.Tensor, target: torch.Tensor, *, reduction: str = "mean", **kwargs: Any) -> torch.Tensor:
    """``torch.nn.functional.cross_entropy``, except that the mean over no targets is 0 (with a gradient), not NaN."""
    if reduction == "mean" and target.numel() == 0:
        return input.sum() * 0.0
    return F.cross_entropy(input, target, reduction=reduction, **kwargs)
