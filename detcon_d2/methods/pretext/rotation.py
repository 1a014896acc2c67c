"""Rotation (RotNet, Gidaris et al. 2018): by which multiple of a quarter turn was the image rotated?

Letters: N images per process, A rotated copies of each, K angles, C feature channels, S pixels per side of a view.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.heads import linear_classifier
from detcon_d2.modeling.metrics import projection_std, share_right
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.samplers import OneView

ANGLES = (0, 90, 180, 270)
"""Degrees counter-clockwise that move pixels without interpolation."""


class RotatedView(OneView):
    """View 1, not rotated yet, and which angles its copies get: the loader ships one view, the model turns it.

    The flip belongs to the view, so it comes before the rotation. The other order would make a flipped copy of 90 degrees the mirror image
    of one of 270: of each such pair only one could be told, and accuracy could not pass 75 %.
    """

    def __init__(self, *, num_angles: int, every_angle: bool, **kwargs):
        """
        Args:
            num_angles: K.
            every_angle: whether there is a copy for each angle, or one for a random angle.
            **kwargs: as for :class:`OneView`.
        """
        super().__init__(**kwargs)
        self.num_angles, self.every_angle = num_angles, every_angle

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int | None, /, **arguments) -> "RotatedView":
        """As :meth:`OneView.from_config`, with DETCON.ROTATION."""
        keys = cfg.DETCON.ROTATION
        return super().from_config(cfg, stride, num_angles=len(keys.ANGLES), every_angle=keys.FOUR_PER_IMAGE, **arguments)

    def sample_angles(self, position: int) -> torch.Tensor:
        """The number of each copy's angle, int64 (A,) in 0..K-1."""
        if self.every_angle:
            return torch.arange(self.num_angles)
        return torch.from_numpy(position_rng(self.seed, position, Stream.PRETEXT).integers(self.num_angles, size=1))

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """The view, with ``angles``, see :meth:`sample_angles`."""
        return super().__call__(image, label_map, position) | {"angles": self.sample_angles(position)}


@d2.META_ARCH_REGISTRY.register()
class Rotation(PretrainingModel):
    """A linear classifier on the mean of the cells; all copies go through the encoder as one batch."""

    Samples = RotatedView
    online_keys = ("logits",)

    @d2.configurable
    def __init__(self, *, classifier: nn.Module, angles: tuple[int, ...], **kwargs):
        """
        Args:
            classifier: maps C to K.
            angles: K degrees counter-clockwise, of :data:`ANGLES`; their order is that of the classes.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"classifier": classifier})}, **kwargs)
        self.angles = tuple(angles)

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """Rotation's keys; crop, flip and colours are those of view 1."""
        node.ROTATION = d2.CfgNode()
        # Degrees counter-clockwise, multiples of 90, each a class.
        node.ROTATION.ANGLES = ANGLES
        # Every image is shown at all of ANGLES, as the authors do, so that a batch of N images has len(ANGLES) N copies; False: at one of
        # them, which is sampled.
        node.ROTATION.FOUR_PER_IMAGE = True

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of Rotation's keys."""
        angles = tuple(cfg.DETCON.ROTATION.ANGLES)
        known = len(set(angles)) == len(angles) > 1 and set(angles) <= set(ANGLES)
        return [(known, "DETCON.ROTATION.ANGLES", angles, f"two or more different ones of {ANGLES}")]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, angles = super().from_config(cfg), cfg.DETCON.ROTATION.ANGLES
        classifier = linear_classifier(feature_channels(cfg, args["encoder"]), len(angles))
        return args | {"classifier": classifier, "angles": angles}

    def rotated(self, images: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) and the numbers of angles int64 (N, A) to the copies (N, A, 3, S, S): pixels are moved, never interpolated."""
        copies = torch.stack([torch.rot90(images, angle // 90, (2, 3)) for angle in self.angles], dim=1)
        return copies[torch.arange(len(images), device=images.device)[:, None], angles]

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits`` (N, A, K), ``labels`` (N, A) int64, ``features`` (N, C) of the first copy, by default the one that is not rotated."""
        (view,) = self.images_of(batch)
        labels = self.to_device(torch.stack([sample["angles"] for sample in batch]))
        copies = self.rotated(view, labels).flatten(0, 1).contiguous(memory_format=self.memory_format)
        features = self.encoder(copies)[self.in_feature]
        logits = self.heads["classifier"](features.mean((2, 3))).unflatten(0, labels.shape)
        return {"logits": logits, "labels": labels, "features": LinearProbe.pool(features[:: labels.shape[1]])}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean cross-entropy over all copies."""
        logits, labels = (embeddings[key].flatten(0, 1) for key in ("logits", "labels"))
        return {"loss_rotation": F.cross_entropy(logits.float(), labels)}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, the share of right answers, that of each angle (0 without a copy), and the share that guessing gets right."""
        labels = embeddings["labels"]
        right = embeddings["logits"].argmax(2) == labels
        of_angles = {f"accuracy_{angle}": share_right(right, labels == number) for number, angle in enumerate(self.angles)}
        found = {"projection_std": projection_std(embeddings["features"][:, None]), "accuracy": right.float().mean()}
        return found | of_angles | {"chance": torch.tensor(1 / len(self.angles))}
