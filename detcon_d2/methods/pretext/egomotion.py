"""Egomotion on still images, after Agrawal et al. 2015: how does the camera move from one view to the other?

The movement is synthetic: a small shift, turn and zoom. The paper takes pairs of frames with the odometry of a car.
Letters: N images per process, K bins, S pixels per side of a view, C feature channels, P feature cells of a view.
"""

from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_cells
from detcon_d2.modeling.heads import MLP, similarities
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.geometry import ViewAugmentation, ViewTransform
from detcon_d2.views.photometric import PhotometricAugmentation
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.samplers import OneView, to_planes

MOVEMENTS = ("right", "down", "turn", "zoom")
LARGEST = np.array([0.2, 0.2, np.deg2rad(20), 0.2])
"""Of each movement between the views: in parts of the side, radians, and the logarithm of the factor."""
_MARGIN = 1.8
"""Side of what a movement needs around a view, in parts of its own."""


class MovedViews(OneView):
    """Two views of one crop, of which the second is seen after a movement.

    Both views are moved from a common place that is random itself, by half of the movement each, so that both are interpolated alike.
    """

    def __init__(self, *, size: int, bins: int, **kwargs):
        """
        Args:
            size: S.
            bins: K, of equal width over the range of each movement.
            **kwargs: as for :class:`OneView`; the geometry's size is that of the crop around both views.
        """
        super().__init__(**kwargs)
        self.size, self.bins = size, bins

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int | None) -> "MovedViews":
        """As :meth:`OneView.from_config`, with DETCON.EGOMOTION."""
        return super().from_config(cfg, stride, size=cfg.DETCON.VIEWS.SIZE, bins=cfg.DETCON.EGOMOTION.BINS)

    @staticmethod
    def augmentations(cfg: "d2.CfgNode") -> tuple[list[ViewAugmentation], list[PhotometricAugmentation]]:
        """Those of view 1, at the size of the crop around both views."""
        (geometry,), photometric = OneView.augmentations(cfg)
        return [replace(geometry, size=round(_MARGIN * geometry.size))], photometric

    def sample_geometry(self, position: int, height: int, width: int) -> list[ViewTransform]:
        """The crop around both views, twice."""
        return super().sample_geometry(position, height, width) * 2

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """Both views, and ``movement`` int64 (4,): the bin of each of :data:`MOVEMENTS`, in 0..K-1."""
        rng = position_rng(self.seed, position, Stream.PRETEXT)
        labels = rng.integers(self.bins, size=4)
        # Anywhere in the bin.
        movement = ((labels + rng.random(4)) / self.bins * 2 - 1) * LARGEST
        start = rng.uniform(-0.25, 0.25, 4) * LARGEST
        (view,) = self.render(self.sample_geometry(position, *image.shape[:2])[:1], image, position)
        views = [view | {"image": self._moved(view["image"], one)} for one in (start - movement / 2, start + movement / 2)]
        return {"views": views, "movement": torch.from_numpy(labels)}

    def _moved(self, planes: torch.Tensor, movement: np.ndarray) -> torch.Tensor:
        right, down, turn, zoom = movement
        pixels = planes.permute(1, 2, 0).numpy()
        matrix = np.exp(zoom) * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        centre = (pixels.shape[0] - 1) / 2 + np.array([right, down]) * self.size
        offset = centre - matrix @ np.full(2, (self.size - 1) / 2)
        places, flags = np.column_stack([matrix, offset]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return to_planes(cv2.warpAffine(pixels, places, (self.size, self.size), flags=flags, borderMode=cv2.BORDER_REFLECT))


@d2.META_ARCH_REGISTRY.register()
class Egomotion(PretrainingModel):
    """An MLP sees how similar each cell of one view is to each of the other (the matching layer of Rocco et al. 2017, section 3.2), and
    has a classifier for each movement. From the features of both views side by side, as in the paper, nothing was learned in minutes.
    """

    Samples = MovedViews
    online_keys = ("logits",)

    @d2.configurable
    def __init__(self, *, classifier: nn.Module, bins: int, **kwargs):
        """
        Args:
            classifier: maps P * P to 4 K.
            bins: K.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"classifier": classifier})}, **kwargs)
        self.bins = bins

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """Egomotion's keys."""
        node.EGOMOTION = d2.CfgNode()
        # Bins of each movement; the paper has 20 for driving.
        node.EGOMOTION.BINS = 7
        # Of the layer before the classifiers.
        node.EGOMOTION.HIDDEN_DIM = 1024

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of Egomotion's keys."""
        keys = cfg.DETCON.EGOMOTION
        return [
            (keys.BINS > 1, "DETCON.EGOMOTION.BINS", keys.BINS, "at least 2"),
            (keys.HIDDEN_DIM > 0, "DETCON.EGOMOTION.HIDDEN_DIM", keys.HIDDEN_DIM, "at least 1"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.EGOMOTION
        classifier = MLP([feature_cells(cfg, args["encoder"]) ** 2, keys.HIDDEN_DIM, len(MOVEMENTS) * keys.BINS], norm=cfg.DETCON.HEAD_NORM)
        return args | {"classifier": classifier, "bins": keys.BINS}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits`` (N, 4, K), ``labels`` (N, 4) int64, ``features`` (N, C) of the first view."""
        features = self.encoder(torch.cat(self.images_of(batch)))[self.in_feature]
        logits = self.heads["classifier"](similarities(*features.chunk(2)).flatten(1)).unflatten(1, (len(MOVEMENTS), self.bins))
        labels = self.to_device(torch.stack([sample["movement"] for sample in batch]))
        return {"logits": logits, "labels": labels, "features": LinearProbe.pool(features.chunk(2)[0])}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean cross-entropy over images and movements."""
        logits, labels = (embeddings[key].flatten(0, 1) for key in ("logits", "labels"))
        return {"loss_egomotion": F.cross_entropy(logits.float(), labels)}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, the share of right bins, that of each movement, and what guessing gets right."""
        right = (embeddings["logits"].argmax(2) == embeddings["labels"]).float()
        found = {"projection_std": projection_std(embeddings["features"][:, None]), "accuracy": right.mean()}
        found |= {f"accuracy_{name}": value for name, value in zip(MOVEMENTS, right.mean(0), strict=True)}
        return found | {"chance": torch.tensor(1 / self.bins)}
