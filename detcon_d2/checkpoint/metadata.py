"""What a checkpoint says about itself: plain values that the converter prints and fine-tuning checks."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint.safe_load.files import is_kept, load_checkpoint_file
from detcon_d2.config import backbone_padding, last_stage

# A resumed run continues the very same stream of positions only if these agree.
_FIXED_ON_RESUME = ("method", "depth", "seed", "ims_per_batch", "dataset_size", "dataset_digest", "max_iter", "mask_parameters", "padding")
# What files mean that were written before there was the entry.
_BEFORE = {"padding": "symmetric"}


class CheckpointMetadata:
    """The checkpointable ``metadata``: written with every checkpoint, compared on resume.

    Its ``values`` are str, int, float or lists of them.
    """

    def __init__(self, values: dict[str, Any], strict: bool = True):
        """
        Args:
            values: see :func:`pretraining_metadata`.
            strict: refuse to resume a checkpoint made with another seed, batch, list of images, length or masks.
        """
        self.values = dict(values)
        self.strict = strict

    def state_dict(self) -> dict[str, Any]:
        """The values, to be saved."""
        return dict(self.values)

    def completed(self, iterations: int) -> None:
        """Record how far the run is."""
        images = iterations * self.values["ims_per_batch"]
        self.values |= {"iterations": iterations, "epochs": images / self.values["dataset_size"]}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        """Compare with the metadata of the checkpoint that is resumed.

        Raises:
            ValueError: listing each entry that must stay fixed and does not, found and expected.
        """
        found, expected = _BEFORE | found, _BEFORE | self.values
        differing = [
            f"{key}: {found[key]!r} in the checkpoint, {expected.get(key)!r} in this run"
            for key in _FIXED_ON_RESUME
            if key in found and found[key] != expected.get(key)
        ]
        if differing and self.strict:
            raise ValueError(
                "This run cannot continue the checkpoint in OUTPUT_DIR exactly:\n  "
                + "\n  ".join(differing)
                + "\nRestore these settings, choose another OUTPUT_DIR, or set DETCON.SOLVER.STRICT_RESUME False to continue all the same."
            )


def with_defaults(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with what files of ours mean that were written before there was the entry; unchanged where it is not ours."""
    return (_BEFORE if str(metadata.get("format")).startswith("detcon_d2 ") else {}) | dict(metadata)


def network_metadata(cfg: "d2.CfgNode") -> dict[str, Any]:
    """The backbone and the images that it takes: what pretraining, conversion and fine-tuning must agree on.

    Raises:
        ValueError: for a DETCON.BACKBONE.PADDING that the backbone does not have.
    """
    return {
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "depth": cfg.MODEL.RESNETS.DEPTH,
        "last_stage": last_stage(cfg),
        "width_multiplier": cfg.DETCON.WIDTH_MULTIPLIER,
        "stem_out_channels": cfg.MODEL.RESNETS.STEM_OUT_CHANNELS,
        "res2_out_channels": cfg.MODEL.RESNETS.RES2_OUT_CHANNELS,
        "width_per_group": cfg.MODEL.RESNETS.WIDTH_PER_GROUP,
        "num_groups": cfg.MODEL.RESNETS.NUM_GROUPS,
        "stride_in_1x1": bool(cfg.MODEL.RESNETS.STRIDE_IN_1X1),
        "padding": backbone_padding(cfg),
        "norm": cfg.MODEL.RESNETS.NORM,
        "channel_order": cfg.INPUT.FORMAT,
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
    }


def pretraining_metadata(cfg: "d2.CfgNode", dataset_size: int, dataset_digest: str, mask_parameters: str) -> dict[str, Any]:
    """What a pretraining run knows of itself before the first iteration.

    Args:
        cfg: the resolved config.
        dataset_size: number of images.
        dataset_digest: hash of their keys.
        mask_parameters: one line on the regions.
    """
    return {
        "format": "detcon_d2 1",
        "method": cfg.MODEL.META_ARCHITECTURE,
        "encoder": "online in encoder.*" + (", EMA in target.encoder.*" if cfg.MODEL.META_ARCHITECTURE == "DetConB" else ""),
        **network_metadata(cfg),
        "view_size": cfg.DETCON.VIEWS.SIZE,
        "mask_parameters": mask_parameters,
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
    checkpoint = load_checkpoint_file(path, keep=is_kept(path))
    return checkpoint.get("metadata") if isinstance(checkpoint, dict) else None
