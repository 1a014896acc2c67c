"""Projectors and predictors: perceptrons on the last axis, applied to images, sampled regions or feature cells alike."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

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
        rows = normalise_rows(self.norm, self.fc1(x.flatten(0, -2))).relu()
        return self.fc2(rows).unflatten(0, x.shape[:-1])


class MLP(nn.Module):
    """Linear layers on the last axis; between two of them a norm, where there is one, and the activation."""

    def __init__(
        self,
        dims: Sequence[int],
        *,
        norm: str = "",
        bias: bool = True,
        last_bias: bool = True,
        last_norm: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
        init: Callable[[torch.Tensor], object] | None = None,
    ):
        """
        Args:
            dims: of input, hidden layers and output, at least two.
            norm: a name that Detectron2's ``get_norm`` knows; "": none.
            bias: of all layers except the last.
            last_bias: of the last layer.
            last_norm: also normalise the output, without a learned shift, as SimCLR does.
            activation: makes the activation.
            init: fills a weight in place, and biases become 0; None: torch's defaults.
        """
        super().__init__()
        last = len(dims) - 2
        shapes = list(pairwise(dims))
        self.layers = nn.ModuleList(nn.Linear(*shape, bias=last_bias if i == last else bias) for i, shape in enumerate(shapes))
        self.norms = nn.ModuleList(d2.get_norm(norm, dim) for dim in dims[1 : len(dims) if last_norm else -1]) if norm else None
        if last_norm:
            self.norms[-1].bias.requires_grad_(False)  # it stays 0
        self.activation = activation()
        for layer in self.layers if init else ():
            init(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., dims[0]) float -> (..., dims[-1]) float."""
        rows = x.flatten(0, -2)
        for index, layer in enumerate(self.layers):
            rows = layer(rows)
            if self.norms is not None and index < len(self.norms):
                rows = normalise_rows(self.norms[index], rows)
            if index < len(self.layers) - 1:
                rows = self.activation(rows)
        return rows.unflatten(0, x.shape[:-1])


def linear_classifier(in_dim: int, classes: int) -> nn.Linear:
    """A layer whose weight is N(0, 0.01) and whose bias is 0 at first."""
    layer = nn.Linear(in_dim, classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


class CellHead(nn.Sequential):
    """From feature cells to outputs per cell: a 3x3 convolution, a norm, ReLU, a 1x1 convolution; (N, C, h, w) to (N, Q, h, w)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, norm: str):
        super().__init__(
            nn.Conv2d(in_dim, hidden_dim, 3, padding=1, bias=False),
            d2.get_norm(norm, hidden_dim),
            nn.ReLU(),
            nn.Conv2d(hidden_dim, out_dim, 1),
        )
        nn.init.kaiming_normal_(self[0].weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self[3].weight, std=0.01)
        nn.init.zeros_(self[3].bias)


def normalise_rows(norm: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """A norm of Detectron2 on (rows, C), as 1x1 images: some of its norms take four axes only."""
    return norm(rows[:, :, None, None]).flatten(1)


def similarities(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(N, P, P): the cosine of each cell of the first and each of the second (N, C, h, w), both without the mean over their cells."""
    cells = [features.flatten(2) for features in (first, second)]
    units = [F.normalize(one - one.mean(2, keepdim=True), dim=1) for one in cells]
    return units[0].mT @ units[1]
