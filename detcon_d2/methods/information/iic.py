"""IIC, invariant information clustering (Ji et al. 2019): two views of a place get the same clusters, all of which are used.

Letters: N images per process, (h, w) feature cells, C feature channels, K clusters of a head, T clusters of all heads.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.losses.pretext.iic import align_cells, information_loss, joint_distribution
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.samplers import TwoViews


@d2.META_ARCH_REGISTRY.register()
class IIC(PretrainingModel):
    """Heads of one linear layer and softmax, on the cells (DENSE) or on their mean; all heads are trained in every step."""

    Samples = TwoViews
    online_keys = ("logits1", "logits2")

    @d2.configurable
    def __init__(self, *, clusters: nn.Module, sizes: list[int], dense: bool, shift: int, entropy_weight: float, **kwargs):
        """
        Args:
            clusters: a 1x1 convolution from C to T.
            sizes: K of each head, of sum T.
            dense: whether cells are clustered, or whole views.
            shift: cells by which places may differ, along each side.
            entropy_weight: lambda of the loss.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"clusters": clusters})}, **kwargs)
        self.sizes, self.dense, self.shift, self.entropy_weight = sizes, dense, shift if dense else 0, entropy_weight

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """IIC's keys, with the values of xu-ji/IIC where it has them."""
        node.IIC = d2.CfgNode()
        # Clusters of each kind of head: many small ones help those whose number is that of the classes.
        node.IIC.CLUSTERS = (70, 10)
        # Heads of each kind.
        node.IIC.SUB_HEADS = 5
        # Weight of the entropy of the clusters' sizes.
        node.IIC.ENTROPY_WEIGHT = 1.0
        # Cells at the same place of both crops get the same cluster; False: whole views do.
        node.IIC.DENSE = True
        # Up to so many cells along each side a place may be displaced.
        node.IIC.SHIFT = 1

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of IIC's keys."""
        keys = cfg.DETCON.IIC
        sizes = tuple(keys.CLUSTERS)
        return [
            (bool(sizes) and min(sizes, default=0) > 1, "DETCON.IIC.CLUSTERS", sizes, "numbers of clusters, 2 or more each"),
            (keys.SUB_HEADS > 0, "DETCON.IIC.SUB_HEADS", keys.SUB_HEADS, "at least 1"),
            (keys.ENTROPY_WEIGHT > 0, "DETCON.IIC.ENTROPY_WEIGHT", keys.ENTROPY_WEIGHT, "a number > 0"),
            (keys.SHIFT >= 0, "DETCON.IIC.SHIFT", keys.SHIFT, "a number of cells, or 0"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.IIC
        sizes = [size for size in keys.CLUSTERS for _ in range(keys.SUB_HEADS)]
        clusters = nn.Conv2d(feature_channels(cfg, args["encoder"]), sum(sizes), 1)
        nn.init.normal_(clusters.weight, std=0.01)
        nn.init.zeros_(clusters.bias)
        return args | {
            "clusters": clusters,
            "sizes": sizes,
            "dense": keys.DENSE,
            "shift": keys.SHIFT,
            "entropy_weight": keys.ENTROPY_WEIGHT,
        }

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits1``, ``logits2`` (N, T, h, w), or (N, T, 1, 1) of whole views; ``box1``, ``box2`` (N, 4), whose x1 > x2 where a view is
        flipped; ``features`` (N, C) of view 1."""
        features = self.encoder(torch.cat(self.images_of(batch)))[self.in_feature]
        logits = self.heads["clusters"](features if self.dense else features.mean((2, 3), keepdim=True))
        found = dict(zip(("logits1", "logits2"), logits.chunk(2)))
        for i in (0, 1):
            boxes = torch.stack([sample["views"][i]["box"] for sample in batch])
            found[f"box{i + 1}"] = self.flipped(batch, i, boxes)
        return found | {"features": LinearProbe.pool(features.chunk(2)[0])}

    def joints(self, embeddings: dict[str, torch.Tensor]) -> list[list[torch.Tensor]]:
        """For each head the joint distributions (K, K) of all displacements, over all processes."""
        e = embeddings
        by = range(-self.shift, self.shift + 1)
        found = []
        for one, two in zip(e["logits1"].float().split(self.sizes, 1), e["logits2"].float().split(self.sizes, 1), strict=True):
            one, two = F.softmax(one, dim=1), F.softmax(two, dim=1)
            if self.dense:
                two, mask = align_cells(two, e["box2"], e["box1"])
            else:
                mask = two.new_ones(len(two), 1, 1)
            found.append([joint_distribution(one, two, mask, (down, right)) for down in by for right in by])
        return found

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mean over heads and displacements."""
        losses = [information_loss(joint, entropy_weight=self.entropy_weight) for joints in self.joints(embeddings) for joint in joints]
        return {"loss_iic": torch.stack(losses).mean()}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse of the features; the mutual information in parts of ln K, the mean over the heads; and the share of clusters that have
        at least a tenth of an equal part."""
        centres = [joints[len(joints) // 2] for joints in self.joints(embeddings)]
        information = [-information_loss(joint) / math.log(len(joint)) for joint in centres]
        used = [(joint.sum(1) > 0.1 / len(joint)).float().mean() for joint in centres]
        return {
            "projection_std": projection_std(embeddings["features"][:, None]),
            "information": torch.stack(information).mean(),
            "clusters_used": torch.stack(used).mean(),
        }
