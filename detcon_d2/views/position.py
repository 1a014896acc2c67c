"""Randomness by position: (SEED, position) alone determines an image, its augmentation and its sampled ids.

A position counts the images that a run has shown, over all epochs and processes. Nothing random depends on workers, processes or where a
run was resumed (method.md, "Sampling by position").
"""

from enum import IntEnum
from functools import lru_cache

import numpy as np


class Stream(IntEnum):
    """Independent sources of random numbers at one position. The values are part of what a run's seed means: they never change."""

    GEOMETRY = 0
    PHOTOMETRIC = 1
    DRAWS = 2
    REPLACEMENT = 3
    KMEANS = 4
    LAYER = 5
    FINETUNE = 6
    SHUFFLE = 7
    PRETEXT = 8
    PARTNER = 9
    FRAMES = 10
    CLUSTERS = 11


def position_rng(seed: int, position: int, stream: int) -> np.random.Generator:
    """The generator of one :class:`Stream` at one position; ``seed`` and ``position`` >= 0."""
    return np.random.default_rng([seed, position, int(stream)])


@lru_cache(maxsize=1)
def epoch_permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of the images in one epoch: int64 (size,), a permutation of 0..size-1. That of the last epoch is kept."""
    return np.random.default_rng([seed, epoch]).permutation(size)
