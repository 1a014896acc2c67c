"""The online linear probe: a classifier of frozen features that is trained along, where the data set has labels."""

import torch
from torch import nn
from torch.nn import functional as F


class LinearProbe(nn.Linear):
    """Logits of mean-pooled features; its loss trains the classifier and never the encoder."""

    @staticmethod
    def pool(features: torch.Tensor) -> torch.Tensor:
        """The mean over the cells of (N, C, h, w), without gradient: (N, C) float32."""
        return features.detach().mean(dim=(2, 3)).float()

    @staticmethod
    def labels_of(batch: list[dict]) -> torch.Tensor:
        """The labels of samples: (N,) int64.

        Raises ValueError: a sample without a label.
        """
        if any("label" not in record for record in batch):
            raise ValueError("The online probe needs a 'label' in every record; set DETCON.PROBE.ENABLED False for data without labels.")
        return torch.tensor([record["label"] for record in batch])

    def loss(self, features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy of :meth:`pool`'s features (N, C) with labels (N,) int64; and the accuracy in [0, 1], without gradient."""
        logits = self(features)
        return F.cross_entropy(logits.float(), labels), (logits.argmax(1) == labels).float().mean()


def check_labels(method: str, num_classes: int) -> None:
    """Raise ValueError if a method that needs the labels of the images has none: ``num_classes`` is 0."""
    if not num_classes:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {method} found no class labels; expected a data set with them (class folders, labels in a list or a "
            "tar) and DETCON.PROBE.ENABLED True."
        )
