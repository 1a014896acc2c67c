"""Counting (Noroozi et al. 2017): what an image contains is the sum of what its four quarters contain, and unlike another image's content.

Letters: N images per process, S pixels per side of a view, C feature channels, K counts.
"""

import cv2
import numpy as np
import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.samplers import OneView, to_planes

KERNELS = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}
"""Ways to halve a view."""


class HalvedViews(OneView):
    """View 1; the same at half its size; and a view of the partner at half its size, by random kernels.

    With one kernel, the traces of resizing would tell a halved view from a quarter.
    """

    needs_partner = True

    def __init__(self, *, kernels: tuple[str, ...], **kwargs):
        """
        Args:
            kernels: of :data:`KERNELS`; one is sampled for each image.
            **kwargs: as for :class:`OneView`.
        """
        super().__init__(**kwargs)
        self.kernels = tuple(kernels)

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int | None) -> "HalvedViews":
        """As :meth:`OneView.from_config`, with DETCON.COUNTING."""
        return super().from_config(cfg, stride, kernels=cfg.DETCON.COUNTING.KERNELS)

    def sample_geometry(self, position: int, height: int, width: int) -> list[ViewTransform]:
        """That of view 1 for all of them."""
        return super().sample_geometry(position, height, width) * 3

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int, partner: np.ndarray | None = None) -> dict:
        """The ``views`` of S, S / 2 and S / 2 pixels. All have the same colours: those of view 1."""
        rng = position_rng(self.seed, position, Stream.PRETEXT)
        # Both halved views by the same kernel: another would tell the partner.
        kernel = KERNELS[self.kernels[rng.integers(len(self.kernels))]]
        (view,), (other,) = (self.render(self.sample_geometry(position, *one.shape[:2])[:1], one, position) for one in (image, partner))
        return {"views": [view, _halved(view, kernel), _halved(other, kernel)]}


def _halved(view: dict, kernel: int) -> dict:
    pixels = view["image"].permute(1, 2, 0).numpy()
    half = cv2.resize(pixels, (pixels.shape[1] // 2, pixels.shape[0] // 2), interpolation=kernel)
    return view | {"image": to_planes(half if pixels.dtype == np.uint8 else half.clip(0, 1))}


@d2.META_ARCH_REGISTRY.register()
class Counting(PretrainingModel):
    """A linear layer and ReLU on the mean of the cells: K counts >= 0. The six inputs share one forward pass and BatchNorm's statistics."""

    Samples = HalvedViews
    online_keys = ("counts",)

    @d2.configurable
    def __init__(self, *, counter: nn.Module, margin: float, **kwargs):
        """
        Args:
            counter: maps C to K.
            margin: M of the loss, > 0.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"counter": counter})}, **kwargs)
        self.margin = margin

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """Counting's keys, with the paper's values (section 4)."""
        node.COUNTING = d2.CfgNode()
        # Counts of an image.
        node.COUNTING.OUTPUTS = 1000
        # Squared distance that the counts of different images are to have.
        node.COUNTING.MARGIN = 10.0
        # One of them halves a view; so that the network cannot count the traces of one.
        node.COUNTING.KERNELS = tuple(KERNELS)

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of Counting's keys."""
        keys, size, kernels = cfg.DETCON.COUNTING, cfg.DETCON.VIEWS.SIZE, tuple(cfg.DETCON.COUNTING.KERNELS)
        return [
            (keys.OUTPUTS > 0, "DETCON.COUNTING.OUTPUTS", keys.OUTPUTS, "at least 1"),
            (keys.MARGIN > 0, "DETCON.COUNTING.MARGIN", keys.MARGIN, "a number > 0"),
            (bool(kernels) and set(kernels) <= set(KERNELS), "DETCON.COUNTING.KERNELS", kernels, f"some of {', '.join(KERNELS)}"),
            (size % 2 == 0, "DETCON.VIEWS.SIZE", size, "an even number of pixels, as views are cut into quarters"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.COUNTING
        counter = nn.Linear(feature_channels(cfg, args["encoder"]), keys.OUTPUTS)
        nn.init.constant_(counter.bias, 0.1)  # counts that start at 0 have no gradient
        return args | {"counter": counter, "margin": keys.MARGIN}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``counts`` (N, 6, K): of the four quarters, of the halved view and of the partner's; ``features`` (N, C) of the halved view."""
        view, half, other = self.images_of(batch)
        quarters = [part for row in view.chunk(2, 2) for part in row.chunk(2, 3)]
        stacked = torch.stack([*quarters, half, other], dim=1).flatten(0, 1).contiguous(memory_format=self.memory_format)
        features = self.encoder(stacked)[self.in_feature]
        counts = self.heads["counter"](features.mean((2, 3))).relu().unflatten(0, (len(batch), 6))
        return {"counts": counts, "features": LinearProbe.pool(features[4::6])}

    @staticmethod
    def errors(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared distance of the quarters' sum from the halved view's counts, and from those of the partner: (N,) each, float32."""
        counts = counts.float()
        total = counts[:, :4].sum(1)
        return ((counts[:, 4] - total) ** 2).sum(1), ((counts[:, 5] - total) ** 2).sum(1)

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``|c(half) - sum|^2 + max(0, M - |c(other half) - sum|^2)`` (equation 5 of the paper), the mean over the images."""
        own, other = self.errors(embeddings["counts"])
        return {"loss_counting": (own + (self.margin - other).clamp(min=0)).mean()}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse of the features; the error in parts of that of another image (below 1: something is learned); the share of images of
        which the margin is not reached; the halved view's counts in parts of the quarters' sum (1/4: quarters and wholes count alike)."""
        counts = embeddings["counts"].float()
        own, other = self.errors(counts)
        ratio = counts[:, 4].mean() / counts[:, :4].sum(1).mean().clamp(min=1e-8)
        return {
            "projection_std": projection_std(embeddings["features"][:, None]),
            "error_ratio": own.mean() / other.mean().clamp(min=1e-8),
            "within_margin": (other < self.margin).float().mean(),
            "counts_ratio": ratio,
        }
