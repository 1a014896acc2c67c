"""Supervised classification, the baseline of every comparison: the labels of the images train the encoder."""

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.heads import linear_classifier
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe, check_labels
from detcon_d2.views.samplers import OneView


@d2.META_ARCH_REGISTRY.register()
class Supervised(PretrainingModel):
    """One view per image, a linear classifier on the mean of the cells."""

    Samples = OneView
    online_keys = ("logits",)

    @d2.configurable
    def __init__(self, *, classifier: nn.Module, **kwargs):
        """
        Args:
            classifier: maps C to the classes.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"classifier": classifier})}, **kwargs)

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config; DETCON.PROBE.NUM_CLASSES comes from the labels of the data set.

        Raises:
            ValueError: the data has no labels.
        """
        args = super().from_config(cfg)
        check_labels("Supervised", args["num_classes"])
        classifier = linear_classifier(feature_channels(cfg, args["encoder"]), args["num_classes"])
        return args | {"classifier": classifier}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits`` (N, classes), ``labels`` (N,) int64, ``features`` (N, C)."""
        (view,) = self.images_of(batch)
        features = self.encoder(view)[self.in_feature]
        labels = self.to_device(LinearProbe.labels_of(batch))
        return {"logits": self.heads["classifier"](features.mean((2, 3))), "labels": labels, "features": LinearProbe.pool(features)}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean cross-entropy."""
        return {"loss_supervised": F.cross_entropy(embeddings["logits"].float(), embeddings["labels"])}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Spread of the features, which are what other methods project, and the share of right answers."""
        right = embeddings["logits"].argmax(1) == embeddings["labels"]
        return {"projection_std": projection_std(embeddings["features"][:, None]), "accuracy": right.float().mean()}
