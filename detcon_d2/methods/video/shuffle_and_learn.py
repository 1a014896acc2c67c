"""Shuffle and Learn (Misra et al. 2016): of three frames of a clip, was the second taken between the two others?

Letters: N clips per process, C feature channels, P feature cells of a frame.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.masks.flow import optical_flow
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.methods.video.frames import SteadyFrames, check_gaps
from detcon_d2.modeling.backbone import feature_cells
from detcon_d2.modeling.heads import MLP, similarities
from detcon_d2.modeling.metrics import projection_std, share_right
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.position import Stream, position_rng

WINDOW = 5
"""Frames a < b < c < d < e: ordered are (b, c, d), shuffled (b, a, d) and (b, e, d), each also backwards (section 3.1)."""
_MOTION_SIDE = 96


class FrameTriplet(SteadyFrames):
    """Three of the frames that come along, of the WINDOW consecutive ones with the most motion, by the mean length of the optical flow.

    The authors sample windows by it. They also leave out windows in which c looks like a or e, which is not built.
    """

    needs_frames, num_views = WINDOW, 3

    def __init__(self, *, num_frames: int, ordered: float, **kwargs):
        """
        Args:
            num_frames: at least WINDOW; with WINDOW, motion is not looked at.
            ordered: the probability of an ordered triplet.
            **kwargs: as for :class:`SteadyFrames`.
        """
        super().__init__(**kwargs)
        self.needs_frames, self.ordered = num_frames, ordered

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int | None) -> "FrameTriplet":
        """As :meth:`TwoViews.from_config`, with DETCON.SHUFFLE_AND_LEARN."""
        keys = cfg.DETCON.SHUFFLE_AND_LEARN
        return super().from_config(cfg, stride, num_frames=keys.FRAMES, frame_gaps=tuple(keys.GAPS), ordered=keys.ORDERED)

    def sample_order(self, position: int) -> tuple[tuple[int, int, int], bool]:
        """The places of the three frames in the window, and whether they are ordered."""
        ordered, outer, backwards = position_rng(self.seed, position, Stream.PRETEXT).random(3)
        middle = 2 if ordered < self.ordered else 0 if outer < 0.5 else 4
        return ((1, middle, 3) if backwards < 0.5 else (3, middle, 1)), middle == 2

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int, frames: list[np.ndarray]) -> dict:
        """The three views, with ``ordered`` int64 (): 1 or 0."""
        places, ordered = self.sample_order(position)
        first = most_motion(frames, WINDOW)
        views = self.views_of([frames[first + place] for place in places], position)
        return {"views": views, "ordered": torch.tensor(int(ordered))}


def most_motion(frames: list[np.ndarray], window: int) -> int:
    """The first of the ``window`` consecutive frames, uint8 (H, W, 3) each, with the largest mean length of the flow between neighbours."""
    if len(frames) == window:
        return 0
    motion = [np.linalg.norm(optical_flow(a, b, _MOTION_SIDE, fast=True), axis=2).mean() for a, b in pairwise(frames)]
    return int(np.argmax(np.convolve(motion, np.ones(window - 1), "valid")))


@d2.META_ARCH_REGISTRY.register()
class ShuffleAndLearn(PretrainingModel):
    """The frames go through the encoder as one batch; a classifier sees how similar the cells of each two of them are. From the features of
    all three side by side, as in the paper, nothing was learned in minutes."""

    Samples = FrameTriplet
    online_keys = ("logits",)

    @d2.configurable
    def __init__(self, *, classifier: nn.Module, ordered: float, **kwargs):
        """
        Args:
            classifier: maps 3 P^2 to 2.
            ordered: the share of ordered triplets, in (0, 1).
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"classifier": classifier})}, **kwargs)
        self.chance = max(ordered, 1 - ordered)

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """The keys of Shuffle and Learn; crop, flip and colours are those of view 1."""
        node.SHUFFLE_AND_LEARN = d2.CfgNode()
        # Frames that are read, 5 or more: the 5 consecutive ones with the most motion are used. 5: motion is not looked at.
        node.SHUFFLE_AND_LEARN.FRAMES = 9
        # Least and largest gap between neighbouring frames of these, in frames; 0 for the largest: as the clip allows.
        node.SHUFFLE_AND_LEARN.GAPS = (1, 0)
        # Share of ordered triplets; 0.25 was the paper's best.
        node.SHUFFLE_AND_LEARN.ORDERED = 0.25
        # Hidden layer of the classifier; 0: none, as in the paper, whose encoder ends with two fully connected layers.
        node.SHUFFLE_AND_LEARN.HIDDEN_DIM = 512

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of the keys."""
        keys, name = cfg.DETCON.SHUFFLE_AND_LEARN, "DETCON.SHUFFLE_AND_LEARN"
        return [
            (keys.FRAMES >= WINDOW, f"{name}.FRAMES", keys.FRAMES, f"at least {WINDOW}"),
            check_gaps(f"{name}.GAPS", keys.GAPS),
            (0 < keys.ORDERED < 1, f"{name}.ORDERED", keys.ORDERED, "a share in (0, 1)"),
            (keys.HIDDEN_DIM >= 0, f"{name}.HIDDEN_DIM", keys.HIDDEN_DIM, "at least 1, or 0 for none"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.SHUFFLE_AND_LEARN
        classifier = MLP([3 * feature_cells(cfg, args["encoder"]) ** 2, *([keys.HIDDEN_DIM] if keys.HIDDEN_DIM else []), 2])
        return args | {"classifier": classifier, "ordered": keys.ORDERED}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits`` (N, 2), of shuffled and ordered; ``labels`` (N,) int64; ``features`` (N, C) of the first frame that is shown."""
        views = self.images_of(batch)
        features = self.encoder(torch.cat(views))[self.in_feature]
        first, second, third = features.chunk(3)
        pairs = ((first, second), (second, third), (first, third))
        logits = self.heads["classifier"](torch.cat([similarities(*pair).flatten(1) for pair in pairs], dim=1))
        labels = self.to_device(torch.stack([sample["ordered"] for sample in batch]))
        return {"logits": logits, "labels": labels, "features": LinearProbe.pool(features[: len(batch)])}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean cross-entropy."""
        return {"loss_shuffle_and_learn": F.cross_entropy(embeddings["logits"].float(), embeddings["labels"])}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, the share of right answers, of all, of ordered and of shuffled triplets (0 without one), and that of the best guess."""
        labels = embeddings["labels"]
        right = embeddings["logits"].argmax(1) == labels
        return {
            "projection_std": projection_std(embeddings["features"][:, None]),
            "accuracy": right.float().mean(),
            "accuracy_ordered": share_right(right, labels == 1),
            "accuracy_shuffled": share_right(right, labels == 0),
            "chance": torch.tensor(self.chance),
        }
