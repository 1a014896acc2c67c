"""Context encoder (Pathak et al. 2016): what is in the hole of an image? By squared error alone, as in the paper's feature learning.

Letters: N images per process, S pixels per side of a view, (h, w) feature cells, s predicted pixels per side of a cell, C feature channels.
"""

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.samplers import OneView

HOLES = ("block", "center", "region")
"""Values of DETCON.CONTEXT_ENCODER.HOLE."""
_BLOCKS, _SIDES = 4, (1 / 8, 1 / 4)  # at most, and of the view's side
_SCALE, _SHARE = 0.06, (0.2, 0.3)  # of the noise, in parts of the view's side; of the view's area


def sample_hole(rng: np.random.Generator, size: int, kind: str) -> np.ndarray:
    """A hole, bool (size, size), by one of :data:`HOLES`; never empty.

    "block": one to four squares of 1/8 to 1/4 of the side; "center": the middle half of the side; "region": noise, smooth over 6 % of the
    side, above the quantile that leaves 20 to 30 % of the area. Edges are those of pixels: those of feature cells would give the hole away.
    """
    hole = np.zeros((size, size), bool)
    if kind == "center":
        hole[size // 4 : size // 4 + size // 2, size // 4 : size // 4 + size // 2] = True
    elif kind == "block":
        for _ in range(rng.integers(1, _BLOCKS + 1)):
            side = max(round(rng.uniform(*_SIDES) * size), 1)
            top, left = rng.integers(size - side + 1, size=2)
            hole[top : top + side, left : left + side] = True
    else:
        cells = max(round(_SCALE * size), 2)
        noise = cv2.resize(rng.random((cells, cells), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        hole = noise >= np.quantile(noise, 1 - rng.uniform(*_SHARE))
    return hole


class ViewWithHole(OneView):
    """View 1 and a hole in it, which the model fills with the pixel mean."""

    def __init__(self, *, hole: str, **kwargs):
        """
        Args:
            hole: one of :data:`HOLES`.
            **kwargs: as for :class:`OneView`.
        """
        super().__init__(**kwargs)
        self.hole = hole

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int | None) -> "ViewWithHole":
        """As :meth:`OneView.from_config`, with DETCON.CONTEXT_ENCODER."""
        return super().from_config(cfg, stride, hole=cfg.DETCON.CONTEXT_ENCODER.HOLE)

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """The view, with ``hole`` bool (S, S)."""
        hole = sample_hole(position_rng(self.seed, position, Stream.PRETEXT), self.geometry[0].size, self.hole)
        return super().__call__(image, label_map, position) | {"hole": torch.from_numpy(hole)}


@d2.META_ARCH_REGISTRY.register()
class ContextEncoder(PretrainingModel):
    """A linear layer on each cell predicts the s x s pixels at its place."""

    Samples = ViewWithHole
    online_keys = ("prediction",)

    @d2.configurable
    def __init__(self, *, decoder: nn.Module, pixels: int, **kwargs):
        """
        Args:
            decoder: a 1x1 convolution from C to 3 s s.
            pixels: s.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"decoder": decoder})}, **kwargs)
        self.pixels = pixels

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """The keys of the context encoder."""
        node.CONTEXT_ENCODER = d2.CfgNode()
        # "block": one to four random squares; "center": the middle; "region": random shapes.
        node.CONTEXT_ENCODER.HOLE = "block"
        # Predicted pixels per side of a feature cell: 8 at stride 32 is a quarter of the view's resolution.
        node.CONTEXT_ENCODER.PIXELS = 8

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of the keys."""
        keys, size = cfg.DETCON.CONTEXT_ENCODER, cfg.DETCON.VIEWS.SIZE
        return [
            (keys.HOLE in HOLES, "DETCON.CONTEXT_ENCODER.HOLE", keys.HOLE, f"one of {', '.join(HOLES)}"),
            (keys.PIXELS > 0, "DETCON.CONTEXT_ENCODER.PIXELS", keys.PIXELS, "at least 1"),
            (size >= 8, "DETCON.VIEWS.SIZE", size, "at least 8 pixels, of which the smallest hole has one"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, pixels = super().from_config(cfg), cfg.DETCON.CONTEXT_ENCODER.PIXELS
        return args | {"decoder": nn.Conv2d(feature_channels(cfg, args["encoder"]), 3 * pixels**2, 1), "pixels": pixels}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``prediction`` and ``truth`` (N, 3, h s, w s), where -1 is black and 1 white; ``hole`` (N, 1, h s, w s), the share of each
        predicted pixel that is in the hole; ``mean`` (N, 3, 1, 1) of the visible pixels; ``features`` (N, C)."""
        (view,) = self.images_of(batch)
        hole = self.to_device(torch.stack([sample["hole"] for sample in batch]))[:, None]
        features = self.encoder(view.masked_fill(hole, 0))[self.in_feature]
        prediction = F.pixel_shuffle(self.heads["decoder"](features), self.pixels)
        truth = (view * self.pixel_std + self.pixel_mean) / 127.5 - 1
        visible = (~hole).float()
        mean = (truth * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True).clamp(min=1)
        small, weight = (F.interpolate(x, prediction.shape[-2:], mode="area") for x in (truth, hole.float()))
        return {"prediction": prediction, "truth": small, "hole": weight, "mean": mean, "features": LinearProbe.pool(features)}

    @staticmethod
    def errors(prediction: torch.Tensor, embeddings: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean squared error over the hole of each image: (N,)."""
        weight = embeddings["hole"].float()
        squares = (prediction.float() - embeddings["truth"].float()) ** 2
        return (weight * squares).sum((1, 2, 3)) / (3 * weight.sum((1, 2, 3)))

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean over the images; what is visible does not count."""
        return {"loss_context_encoder": self.errors(embeddings["prediction"], embeddings).mean()}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse of the features, the error in parts of that of the visible pixels' mean (below 1: something is learned), and the share
        of the view that is hidden."""
        found = self.errors(embeddings["prediction"], embeddings).mean()
        filled = self.errors(embeddings["mean"].expand_as(embeddings["truth"]), embeddings).mean()
        std = projection_std(embeddings["features"][:, None])
        return {"projection_std": std, "error_ratio": found / filled.clamp(min=1e-8), "hole": embeddings["hole"].mean()}
