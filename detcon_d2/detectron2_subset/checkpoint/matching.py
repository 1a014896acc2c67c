"""Matching the names in a checkpoint of a part, such as a backbone, with the names of a larger model."""

import logging
from collections.abc import Mapping

import torch

_logger = logging.getLogger("detectron2.checkpoint")


def match_by_suffix(model: Mapping[str, torch.Tensor], checkpoint: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename each key of ``checkpoint`` to the key of ``model`` of which it is a dotted suffix.

    A key of the model takes the longest key that fits: ``backbone.res2.conv1.weight`` takes ``res2.conv1.weight`` and not
    ``conv1.weight``. Keys that fit nothing, or whose tensor has another shape (logged), keep their names, so that loading reports them.

    Raises:
        ValueError: one key of the checkpoint fits several keys of the model.
    """
    taken: dict[str, str] = {}
    for key, value in model.items():
        suffix = _longest_suffix(key, checkpoint)
        if suffix is None:
            continue
        if checkpoint[suffix].shape != value.shape:
            found, expected = tuple(checkpoint[suffix].shape), tuple(value.shape)
            _logger.warning(f"{suffix} is not loaded: its shape is {found} in the checkpoint, but {key} has {expected} in the model.")
            continue
        if suffix in taken:
            raise ValueError(
                f"{suffix} in the checkpoint fits both {taken[suffix]} and {key} in the model; expected one. "
                "Give the checkpoint the full names of the model and remove matching_heuristics."
            )
        taken[suffix] = key
    if not taken:
        _logger.warning("No weights in the checkpoint match the model.")
    return {taken.get(key, key): value for key, value in checkpoint.items()}


def _longest_suffix(key: str, names: Mapping[str, object]) -> str | None:
    suffix = key
    while suffix not in names:
        _, dot, suffix = suffix.partition(".")
        if not dot:
            return None
    return suffix
