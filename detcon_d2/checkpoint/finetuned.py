"""What a fine-tuned checkpoint says about itself, and about the pretrained one it came from."""

from collections.abc import Mapping
from typing import Any

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint.metadata import CheckpointMetadata, network_metadata

PRETRAINED = "pretrained_"
"""Prefix of the entries taken over from the metadata of the weights that fine-tuning started from."""


class FinetuneMetadata(CheckpointMetadata):
    """The checkpointable ``metadata`` of a fine-tuning run."""

    def take_over(self, pretrained: Mapping[str, Any] | None) -> None:
        """Keep what the weights that the run starts from said about themselves, each entry under ``pretrained_<key>``."""
        self.values |= {f"{PRETRAINED}{key}": value for key, value in (pretrained or {}).items()}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        """Compare with the checkpoint that is resumed, and keep what it says about its origin.

        Raises:
            ValueError: listing each entry that must stay fixed and does not.
        """
        super().load_state_dict(found)
        self.values |= {key: value for key, value in found.items() if key.startswith(PRETRAINED)}


def finetuning_metadata(
    cfg: "d2.CfgNode", dataset_size: int, dataset_digest: str, classes: list[str], category_ids: list[int]
) -> dict[str, Any]:
    """What a fine-tuning run knows of itself before the first iteration.

    Args:
        cfg: the resolved config.
        dataset_size: number of training images.
        dataset_digest: hash of which they are.
        classes: names of the classes, in the order of the model's outputs; empty where unknown.
        category_ids: the data set's ids of these classes, in the same order.
    """
    return {
        "format": "detcon_d2 1",
        "method": cfg.MODEL.META_ARCHITECTURE,
        "protocol": cfg.DETCON.FINETUNE.PROTOCOL,
        "weights": cfg.MODEL.WEIGHTS,
        **network_metadata(cfg),
        "classes": classes,
        "category_ids": category_ids,
        "datasets": list(cfg.DATASETS.TRAIN),
        "dataset_size": dataset_size,
        "dataset_digest": dataset_digest,
        "label_fraction": cfg.DETCON.FINETUNE.LABEL_FRACTION,
        "seed": cfg.SEED,
        "ims_per_batch": cfg.SOLVER.IMS_PER_BATCH,
        "max_iter": cfg.SOLVER.MAX_ITER,
        "iterations": 0,
        "epochs": 0.0,
        "backend": d2.describe_backend().split(" (")[0],
        "torch": str(torch.__version__),
    }
