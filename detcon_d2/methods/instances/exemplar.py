"""Exemplar (Dosovitskiy et al. 2014), as Kolesnikov et al. 2019 train it: views of one image are nearer to each other, by triplets.

Letters: N images per process, V views of each, C feature channels, D embedding dimensions.
"""

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.losses.pretext.triplet import triplet_distances, triplet_loss
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.samplers import TwoViews


class ManyViews(TwoViews):
    """DETCON.EXEMPLAR.VIEWS crops, each as view 1 with its own colours."""

    @staticmethod
    def augmentations(cfg: "d2.CfgNode") -> tuple[list, list]:
        """Those of view 1, repeated."""
        geometry, photometric = TwoViews.augmentations(cfg)
        count = cfg.DETCON.EXEMPLAR.VIEWS
        return geometry[:1] * count, photometric[:1] * count


@d2.META_ARCH_REGISTRY.register()
class Exemplar(PretrainingModel):
    """A linear embedding of the mean of the cells; all views go through the encoder as one batch."""

    Samples = ManyViews
    online_keys = ("z",)

    @d2.configurable
    def __init__(self, *, embedding: nn.Module, margin: float, **kwargs):
        """
        Args:
            embedding: maps C to D.
            margin: of the triplet loss, > 0.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"embedding": embedding})}, **kwargs)
        self.margin = margin

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """Exemplar's keys, with the values of google/revisiting-self-supervised (exemplar/imagenet.sh)."""
        node.EXEMPLAR = d2.CfgNode()
        # Views of each image.
        node.EXEMPLAR.VIEWS = 8
        # Embedding dimensions.
        node.EXEMPLAR.DIM = 1000
        # By so much a view of another image has to be farther away, in squared distance of normalised embeddings.
        node.EXEMPLAR.MARGIN = 0.5

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of Exemplar's keys."""
        keys, batch = cfg.DETCON.EXEMPLAR, cfg.SOLVER.IMS_PER_BATCH
        return [
            (keys.VIEWS >= 2, "DETCON.EXEMPLAR.VIEWS", keys.VIEWS, "at least 2"),
            (keys.DIM > 0, "DETCON.EXEMPLAR.DIM", keys.DIM, "at least 1"),
            (keys.MARGIN > 0, "DETCON.EXEMPLAR.MARGIN", keys.MARGIN, "a number > 0"),
            (batch >= 2, "SOLVER.IMS_PER_BATCH", batch, "at least 2: negatives are views of other images"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.EXEMPLAR
        return args | {"embedding": nn.Linear(feature_channels(cfg, args["encoder"]), keys.DIM), "margin": keys.MARGIN}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``z`` (N, V, D), not normalised; ``features`` (N, C) of the first view."""
        views = self.images_of(batch)
        features = self.encoder(torch.cat(views))[self.in_feature]
        z = self.heads["embedding"](features.mean((2, 3))).unflatten(0, (len(views), len(batch)))
        return {"z": z.transpose(0, 1), "features": LinearProbe.pool(features[: len(batch)])}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Over all processes: the negatives of a view are those of the whole batch."""
        return {"loss_exemplar": triplet_loss(embeddings["z"], margin=self.margin)}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, the share of triplets within the margin, and of views whose nearest other view is of their image, with its chance."""
        z = embeddings["z"]
        images, views, _ = z.shape
        flat = F.normalize(z.float(), dim=2).flatten(0, 1)
        nearest = (flat @ flat.T).fill_diagonal_(-2).argmax(1)
        owner = torch.arange(images, device=z.device).repeat_interleave(views)
        found = {"projection_std": projection_std(z), "accuracy": (owner[nearest] == owner).float().mean()}
        if images > 1:
            positive, negative = triplet_distances(z)
            found["active_triplets"] = (positive - negative + self.margin > 0).float().mean()
        return found | {"chance": torch.tensor((views - 1) / (images * views - 1))}
