"""DeepCluster (Caron et al. 2018): which cluster of the features of the whole data set is the image in?

The clusters are found anew by :mod:`detcon_d2.methods.pretext.deep_cluster_hook`, by default once per epoch, and between two rounds they
are the labels of an ordinary classifier. The input is RGB, without the paper's Sobel filter, so that the weights fit a detector.
Letters: N images per process, D images of the data set, K clusters, C feature channels.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.methods.hook import MethodHook
from detcon_d2.methods.pretext.deep_cluster_hook import ClusterHook
from detcon_d2.modeling.backbone import evaluating, feature_channels
from detcon_d2.modeling.heads import linear_classifier
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.samplers import OneView


def balanced_weights(sizes: np.ndarray) -> np.ndarray:
    """Weights float32 (K,) of the images of clusters with ``sizes`` (K,): every cluster that has images has the same sum, and the mean
    over the images is 1. Without them, a network can put most images into one cluster and be right."""
    used = sizes > 0
    return np.where(used, sizes.sum() / (used.sum() * np.maximum(sizes, 1)), 0).astype(np.float32)


@d2.META_ARCH_REGISTRY.register()
class DeepCluster(PretrainingModel):
    """A linear classifier on the mean of the cells. Labels and weights are no part of the state: they have a file of their own.

    Attributes:
        labels: int32 (D,), the cluster of each training image by its ``index``; None before the first round: then it is the index modulo K.
    """

    Samples = OneView
    online_keys = ("logits",)

    @d2.configurable
    def __init__(self, *, classifier: nn.Linear, **kwargs):
        """
        Args:
            classifier: maps C to K.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"classifier": classifier})}, **kwargs)
        self.labels: np.ndarray | None = None
        self._weights = np.ones(classifier.out_features, np.float32)
        self._largest_share = 1 / classifier.out_features

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """DeepCluster's keys, with the values of the paper and of facebookresearch/deepcluster (main.py, clustering.py)."""
        node.DEEP_CLUSTER = d2.CfgNode()
        # K. Our rule for other data than ImageNet: a hundredth of the images, and at least ten times the classes that one expects.
        node.DEEP_CLUSTER.K = 10000
        # Principal components of the features, which are whitened and normalised before k-means. Far fewer than images: in D - 1
        # dimensions, whitening would put D images at equal distances, and rounding would decide.
        node.DEEP_CLUSTER.COMPONENTS = 256
        # Of k-means.
        node.DEEP_CLUSTER.ITERATIONS = 20
        # E: clusters are found at the start of every E-th epoch, and kept in OUTPUT_DIR/clusters until the next.
        node.DEEP_CLUSTER.REFRESH_EPOCHS = 1

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of DeepCluster's keys, and no held-out images."""
        keys, held_out = cfg.DETCON.DEEP_CLUSTER, tuple(cfg.DETCON.HELD_OUT.DATASETS)
        expected = {"K": 2, "COMPONENTS": 1, "ITERATIONS": 0, "REFRESH_EPOCHS": 1}
        rows = [(keys[key] >= least, f"DETCON.DEEP_CLUSTER.{key}", keys[key], f"at least {least}") for key, least in expected.items()]
        return [*rows, (not held_out, "DETCON.HELD_OUT.DATASETS", held_out, "none: only training images have a cluster")]

    @classmethod
    def doubts(cls, cfg: "d2.CfgNode", num_images: int) -> list[str]:
        """More clusters than a tenth of the images."""
        if (clusters := cfg.DETCON.DEEP_CLUSTER.K) <= num_images / 10:
            return []
        return [
            f"DETCON.DEEP_CLUSTER.K is {clusters} for {num_images} images; expected at most a tenth of them, {num_images // 10}, or "
            "clusters are single images. Lower it, for example to a hundredth of the images."
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args = super().from_config(cfg)
        classifier = linear_classifier(feature_channels(cfg, args["encoder"]), cfg.DETCON.DEEP_CLUSTER.K)
        return args | {"classifier": classifier}

    def hooks(self, cfg: "d2.CfgNode", records: list[dict]) -> list[MethodHook]:
        """The hook that finds the clusters. Raises ValueError: more clusters than images."""
        if (clusters := cfg.DETCON.DEEP_CLUSTER.K) > len(records):
            raise ValueError(
                f"DETCON.DEEP_CLUSTER.K is {clusters}; expected at most {len(records)}, the number of images of DATASETS.TRAIN."
            )
        return [ClusterHook(cfg, self, records)]

    @torch.no_grad()
    def whole_features(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C) float32: the mean over the cells of images (N, 3, H, W) uint8, by the encoder in evaluation mode, so that an image's
        features do not depend on its batch."""
        images = self.normalise(self.to_device(images)).contiguous(memory_format=self.memory_format)
        with evaluating(self.encoder.modules()):
            return LinearProbe.pool(self.encoder(images)[self.in_feature])

    def use_labels(self, labels: np.ndarray) -> None:
        """Train on the clusters int32 (D,) from now on."""
        sizes = np.bincount(labels, minlength=len(self._weights))
        self.labels, self._weights, self._largest_share = labels, balanced_weights(sizes), float(sizes.max() / len(labels))

    @torch.no_grad()
    def reset_classifier(self, weight: torch.Tensor) -> None:
        """Forget the old clusters: the classifier's weight becomes ``weight`` (K, C), its bias 0."""
        self.heads["classifier"].weight.copy_(weight)
        self.heads["classifier"].bias.zero_()

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits`` (N, K), ``labels`` (N,) int64, ``weights`` (N,) float32 with the mean 1 over the data set, ``features`` (N, C)."""
        (view,) = self.images_of(batch)
        features = self.encoder(view)[self.in_feature]
        index = np.array([sample["index"] for sample in batch])
        labels = (index % len(self._weights) if self.labels is None else self.labels[index]).astype(np.int64)
        return {
            "logits": self.heads["classifier"](features.mean((2, 3))),
            "labels": self.to_device(torch.from_numpy(labels)),
            "weights": self.to_device(torch.from_numpy(self._weights[labels])),
            "features": LinearProbe.pool(features),
        }

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mean over the images of the weighted cross-entropy; the weights of a batch need not have the mean 1."""
        losses = F.cross_entropy(embeddings["logits"].float(), embeddings["labels"], reduction="none")
        return {"loss_deep_cluster": (embeddings["weights"] * losses).mean()}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, the share of right answers, and that of the one who always says the largest cluster."""
        right = embeddings["logits"].argmax(1) == embeddings["labels"]
        found = {"projection_std": projection_std(embeddings["features"][:, None]), "accuracy": right.float().mean()}
        return found | {"chance": torch.tensor(self._largest_share)}
