"""Tracking by colour (Vondrick et al. 2018): which cells of earlier frames does each cell of a grey frame have its colour from?

Letters: N clips per process, F frames of each, P = h * w feature cells of a frame, C feature channels, D dimensions of a cell.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.losses.pretext.tracking import copied_colors, pointer, tracking_loss
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.methods.video.frames import SteadyFrames, check_gaps
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.color_bins import PALETTE, nearest_color
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe

REFERENCES = 3
"""Frames before the target, whose colours are known."""


class TrackedFrames(SteadyFrames):
    """The reference frames and the target, in the order of time."""

    needs_frames = num_views = REFERENCES + 1

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int | None) -> "TrackedFrames":
        """As :meth:`TwoViews.from_config`, with DETCON.TRACKING."""
        return super().from_config(cfg, stride, frame_gaps=tuple(cfg.DETCON.TRACKING.GAPS))

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int, frames: list[np.ndarray]) -> dict:
        """``views``: one of each frame."""
        return {"views": self.views_of(frames, position)}


@d2.META_ARCH_REGISTRY.register()
class TrackingByColor(PretrainingModel):
    """Grey frames go through the encoder as one batch; the cells of the target copy colours from the cells of the references.

    The colour of a cell is the nearest one of a fixed palette to the mean of its pixels. The authors cluster the colours of their data.
    Their embedding also mixes the frames by convolutions over time and knows where a cell is; here it is linear, cell by cell.
    """

    Samples = TrackedFrames
    online_keys = ("cells",)

    @d2.configurable
    def __init__(self, *, embedding: nn.Module, temperature: float, **kwargs):
        """
        Args:
            embedding: a 1x1 convolution from C to D.
            temperature: of the softmax over reference cells.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"embedding": embedding})}, **kwargs)
        self.temperature = temperature

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """The keys of tracking; crop and flip are those of view 1, whose colours, if they change, are those of the labels."""
        node.TRACKING = d2.CfgNode()
        # Least and largest gap between neighbours of the four frames, in frames; 0 for the largest: as the clip allows. The paper has 6
        # frames per second.
        node.TRACKING.GAPS = (1, 4)
        # D.
        node.TRACKING.DIM = 64
        # Of the softmax over reference cells.
        node.TRACKING.TEMPERATURE = 1.0

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of the keys."""
        keys, name = cfg.DETCON.TRACKING, "DETCON.TRACKING"
        return [
            check_gaps(f"{name}.GAPS", keys.GAPS),
            (keys.DIM > 0, f"{name}.DIM", keys.DIM, "at least 1"),
            (keys.TEMPERATURE > 0, f"{name}.TEMPERATURE", keys.TEMPERATURE, "a number > 0"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.TRACKING
        embedding = nn.Conv2d(feature_channels(cfg, args["encoder"]), keys.DIM, 1, bias=False)
        return args | {"embedding": embedding, "temperature": keys.TEMPERATURE}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``cells`` (N, F, P, D) and their ``colors`` (N, F, P) int64, of the references and then of the target; ``features`` (N, C) of
        the first frame."""
        lab = self.to_lab(torch.cat(self.images_of(batch)))
        features = self.encoder(self.gray_images(lab[:, :1]))[self.in_feature]
        cells = self.heads["embedding"](features).flatten(2).mT
        colors = nearest_color(F.adaptive_avg_pool2d(lab[:, 1:], features.shape[2:])).flatten(1)
        found = {"cells": cells, "colors": colors}
        found = {name: value.unflatten(0, (-1, len(batch))).transpose(0, 1) for name, value in found.items()}
        return found | {"features": LinearProbe.pool(features[: len(batch)])}

    def pointer_of(self, embeddings: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The pointer of the target's cells to the 3 P reference cells, in the order of time; colours of the target; of the references."""
        cells, colors = embeddings["cells"], embeddings["colors"]
        log_pointer = pointer(cells[:, -1], cells[:, :-1].flatten(1, 2), temperature=self.temperature)
        return log_pointer, colors[:, -1], colors[:, :-1].flatten(1)

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean cross-entropy of the copied colours."""
        return {"loss_tracking": tracking_loss(*self.pointer_of(embeddings))}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse; the share of cells that copy the right colour; and as ``chance`` what the better of two guesses gets right that do not
        look at the target: the most frequent colour of the references, and the colour of the same place in the last of them. Nothing is
        better than the second one where nothing moves."""
        log_pointer, target, references = self.pointer_of(embeddings)
        guess = copied_colors(log_pointer, references, len(PALETTE)).argmax(2)
        frequent = F.one_hot(references, len(PALETTE)).sum(1).argmax(1, keepdim=True)
        guesses = (frequent, references[:, -target.shape[1] :])
        return {
            "projection_std": projection_std(embeddings["features"][:, None]),
            "accuracy": (guess == target).float().mean(),
            "chance": torch.stack([(one == target).float().mean() for one in guesses]).max(),
        }
