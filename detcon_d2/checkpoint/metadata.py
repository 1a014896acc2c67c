"""What a checkpoint reports about itself: plain values that the converter prints and fine-tuning checks."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint.budget import Budget
from detcon_d2.checkpoint.convert.spec import IMAGE_KEYS, BackboneSpec, read_key
from detcon_d2.checkpoint.safe_load.files import load_checkpoint_file

PRETRAINED = "pretrained_"
"""Prefix of the entries that a fine-tuned checkpoint has from the weights that it started from."""

# A resumed run continues the very same stream of positions only if these agree.
_FIXED_ON_RESUME = ("method", "depth", "seed", "ims_per_batch", "dataset_size", "dataset_digest", "max_iter", "mask_parameters", "padding")
# The meaning of files that were written before the entry existed.
_BEFORE = {"padding": "symmetric"}


class CheckpointMetadata:
    """The checkpointable ``metadata``: written with every checkpoint, compared on resume.

    Its ``values`` are str, int, float or lists of them, see :func:`pretraining_metadata` and :func:`finetuning_metadata`; those of the
    ``budget``, which the run counts, are among them.
    """

    def __init__(self, values: dict[str, Any], strict: bool = True):
        """With ``strict``, a checkpoint made with another seed, batch, list of images, length or masks is not resumed."""
        self.values, self.strict = dict(values), strict
        self.budget = Budget()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.values)

    def completed(self, iterations: int) -> None:
        """Record the progress of the run, and its budget so far."""
        images = iterations * self.values["ims_per_batch"]
        self.values |= {"iterations": iterations, "epochs": images / self.values["dataset_size"], **self.budget.metadata()}

    def take_over(self, pretrained: Mapping[str, Any] | None) -> None:
        """Keep the metadata of the weights that the run starts from, each entry under ``pretrained_<key>``."""
        self.values |= {f"{PRETRAINED}{key}": value for key, value in (pretrained or {}).items()}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        """Compare with the metadata of the checkpoint that is resumed, continue its budget, and keep what it reports about the weights that
        it started from.

        Raises ValueError: listing each entry that must stay fixed and does not, found and expected.
        """
        before, now = _BEFORE | found, _BEFORE | self.values
        differing = [(key, before[key], now.get(key)) for key in _FIXED_ON_RESUME if key in before and before[key] != now.get(key)]
        if differing and self.strict:
            raise refused_resume(differing)
        self.budget.restore(found)
        self.values |= {key: value for key, value in found.items() if key.startswith(PRETRAINED)}


def refused_resume(differing: Iterable[tuple[str, Any, Any]]) -> ValueError:
    """The error that lists (name, value in the checkpoint, value in this run) of all settings that must stay and do not."""
    return ValueError(
        "This run cannot continue the checkpoint in OUTPUT_DIR exactly:\n  "
        + "\n  ".join(f"{name}: {before!r} in the checkpoint, {now!r} in this run" for name, before, now in differing)
        + "\nRestore these settings, choose another OUTPUT_DIR, or set DETCON.SOLVER.STRICT_RESUME False to continue nevertheless."
    )


def with_defaults(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata; in files of this package, an entry that did not exist when they were written has the value that they mean."""
    return (_BEFORE if str(metadata.get("format")).startswith("detcon_d2 ") else {}) | dict(metadata)


def network_metadata(cfg: "d2.CfgNode") -> dict[str, Any]:
    """The backbone and the images that it takes: what pretraining, conversion and fine-tuning must agree on.

    Raises ValueError for a DETCON.BACKBONE.PADDING that the backbone does not have.
    """
    images = {name: read_key(cfg, key) for name, key in IMAGE_KEYS.items()}
    return {"backbone": cfg.MODEL.BACKBONE.NAME, **BackboneSpec.from_config(cfg).metadata(), **images}


def pretraining_metadata(cfg: "d2.CfgNode", dataset_size: int, dataset_digest: str, method: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a pretraining run before the first iteration; ``dataset_digest`` is a hash of the images' keys.

    ``method`` is what the model reports about itself: "method", "encoder" (where its encoders are in the checkpoint), "mask_parameters"
    (one line on the regions).
    """
    return {
        "format": "detcon_d2 1",
        **method,
        **network_metadata(cfg),
        "view_size": cfg.DETCON.VIEWS.SIZE,
        **_run_metadata(cfg, dataset_size, dataset_digest),
    }


def finetuning_metadata(
    cfg: "d2.CfgNode", dataset_size: int, dataset_digest: str, classes: list[str], category_ids: list[int]
) -> dict[str, Any]:
    """The metadata of a fine-tuning run before the first iteration; ``dataset_digest`` is a hash of the training images.

    ``classes`` are the names of the classes in the order of the model's outputs, empty where unknown; ``category_ids`` are the data set's
    ids of these classes in the same order.
    """
    return {
        "format": "detcon_d2 1",
        "method": cfg.MODEL.META_ARCHITECTURE,
        "protocol": cfg.DETCON.FINETUNE.PROTOCOL,
        "weights": cfg.MODEL.WEIGHTS,
        **network_metadata(cfg),
        "classes": classes,
        "category_ids": category_ids,
        "label_fraction": cfg.DETCON.FINETUNE.LABEL_FRACTION,
        **_run_metadata(cfg, dataset_size, dataset_digest),
    }


def _run_metadata(cfg: "d2.CfgNode", dataset_size: int, dataset_digest: str) -> dict[str, Any]:
    return {
        "datasets": list(cfg.DATASETS.TRAIN),
        "dataset_size": dataset_size,
        "dataset_digest": dataset_digest,
        "seed": cfg.SEED,
        "ims_per_batch": cfg.SOLVER.IMS_PER_BATCH,
        "max_iter": cfg.SOLVER.MAX_ITER,
        "iterations": 0,
        "epochs": 0.0,
        "backend": d2.describe_backend().split(" (")[0],
        "torch": str(torch.__version__),
    }


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """The metadata of a checkpoint file, read without building a model; None where it has none.

    Raises:
        FileNotFoundError: with the path.
        UnsafeCheckpointError: for a file that is no safe checkpoint.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No checkpoint at {path}.")
    checkpoint = load_checkpoint_file(path, hold=None)
    return checkpoint.get("metadata") if isinstance(checkpoint, dict) else None
