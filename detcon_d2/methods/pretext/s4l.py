"""S4L-Rotation (Zhai et al. 2019): rotation of all images, and the classes of a few that have labels.

It is semi-supervised: compare it with methods that have as many labels. The paper's other losses (VAT, entropy) are not built.
Letters: N images per process, A rotated copies of each, K angles, C feature channels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.data.sampler import fraction_of
from detcon_d2.methods.pretext.rotation import RotatedView, Rotation
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.heads import linear_classifier
from detcon_d2.modeling.probe import check_labels
from detcon_d2.views.geometry import ViewTransform


class LabelledPartner(RotatedView):
    """An image and a labelled one, each with its view and the same angles. Both are shown equally often: with few labels, those images are
    seen many times."""

    needs_partner = True

    def __init__(self, *, label_fraction: float, label_seed: int, **kwargs):
        """
        Args:
            label_fraction: of the images whose label is used, in (0, 1].
            label_seed: of their choice.
            **kwargs: as for :class:`RotatedView`.
        """
        super().__init__(**kwargs)
        self.label_fraction, self.label_seed = label_fraction, label_seed

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int | None) -> "LabelledPartner":
        """As :meth:`RotatedView.from_config`, with DETCON.S4L."""
        keys = cfg.DETCON.S4L
        return super().from_config(cfg, stride, label_fraction=keys.LABEL_FRACTION, label_seed=keys.LABEL_SEED)

    def partners(self, records: Sequence[dict]) -> np.ndarray:
        """The labelled ones."""
        return np.array(fraction_of(len(records), self.label_fraction, self.label_seed))

    def sample_geometry(self, position: int, height: int, width: int) -> list[ViewTransform]:
        """That of view 1 for both."""
        return super().sample_geometry(position, height, width) * 2

    def sample_photometric(self, position: int) -> list:
        """The same colours for both."""
        return super().sample_photometric(position) * 2

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int, partner: np.ndarray | None = None) -> dict:
        """As :meth:`RotatedView.__call__`; the second view is the partner's."""
        both = [image, partner]
        transforms = [self.sample_geometry(position, *one.shape[:2])[0] for one in both]
        return {"views": self.render_each(transforms, both, position), "angles": self.sample_angles(position)}


@d2.META_ARCH_REGISTRY.register()
class S4L(Rotation):
    """Rotation's classifier on the copies of all images, and a classifier of the classes on those of the labelled ones."""

    Samples = LabelledPartner
    online_keys = ("logits", "class_logits")

    @d2.configurable
    def __init__(self, *, classes: nn.Module, weight: float, **kwargs):
        """
        Args:
            classes: maps C to the classes.
            weight: of rotation's loss.
            **kwargs: as for :class:`Rotation`.
        """
        super().__init__(**kwargs)
        self.heads["classes"] = classes
        self.weight = weight

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """S4L's keys; Rotation's are its keys too."""
        node.S4L = d2.CfgNode()
        # Share of the images whose label is used; a smaller one is part of a larger one. The rest counts as unlabelled.
        node.S4L.LABEL_FRACTION = 0.1
        node.S4L.LABEL_SEED = 0
        # Weight of rotation's loss (w of the paper, equation 1).
        node.S4L.WEIGHT = 1.0

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of the keys."""
        keys = cfg.DETCON.S4L
        return [
            *super().check_config(cfg),
            (0 < keys.LABEL_FRACTION <= 1, "DETCON.S4L.LABEL_FRACTION", keys.LABEL_FRACTION, "a number in (0, 1]"),
            (keys.WEIGHT > 0, "DETCON.S4L.WEIGHT", keys.WEIGHT, "a number > 0"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config. Raises ValueError: the data has no labels."""
        args = super().from_config(cfg)
        check_labels("S4L", args["num_classes"])
        classes = linear_classifier(feature_channels(cfg, args["encoder"]), args["num_classes"])
        return args | {"classes": classes, "weight": cfg.DETCON.S4L.WEIGHT}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits`` (N, 2 A, K) and ``labels`` (N, 2 A) int64 of the copies of the image and of the labelled one; ``class_logits`` (N, A,
        classes) and ``classes`` (N,) int64 of the labelled one; ``features`` (N, C) of the image's first copy."""
        images, count = torch.cat(self.images_of(batch)), len(batch)
        angles = self.to_device(torch.stack([sample["angles"] for sample in batch])).repeat(2, 1)
        copies = self.rotated(images, angles).flatten(0, 1).contiguous(memory_format=self.memory_format)
        means = self.encoder(copies)[self.in_feature].mean((2, 3)).unflatten(0, angles.shape)
        logits = self.heads["classifier"](means)
        return {
            "logits": torch.cat(logits.split(count), dim=1),
            "labels": torch.cat(angles.split(count), dim=1),
            "class_logits": self.heads["classes"](means[count:]),
            "classes": self.to_device(torch.tensor([sample["partner_label"] for sample in batch])),
            "features": means[:count, 0].detach().float(),
        }

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The classes of all copies of the labelled images, plus the weighted loss of rotation over all images."""
        logits = embeddings["class_logits"].float()
        classes = embeddings["classes"][:, None].expand(logits.shape[:2]).flatten()
        losses = {name: self.weight * loss for name, loss in super().criterion(embeddings).items()}
        return losses | {"loss_classes": F.cross_entropy(logits.flatten(0, 1), classes)}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As :meth:`Rotation.metrics`, and the share of labelled images whose first copy has the right class."""
        right = embeddings["class_logits"][:, 0].argmax(1) == embeddings["classes"]
        return super().metrics(embeddings) | {"class_accuracy": right.float().mean()}
