"""Which image each position of a run shows."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from detcon_d2.views.position import epoch_permutation


class PositionSampler(Sampler):
    """Endless (position, index) pairs of one process.

    Iteration t of a run with batch B shows positions t*B .. (t+1)*B - 1; process r of R takes [t*B + r*B/R, t*B + (r+1)*B/R). The image at
    position k is ``epoch_permutation(seed, k // size, size)[k % size]``: each image once per epoch; a batch may cross its end.
    """

    def __init__(self, size: int, *, seed: int, batch_size: int, rank: int = 0, world_size: int = 1, start_iteration: int = 0):
        """
        Args:
            size: D, number of images.
            seed: >= 0.
            batch_size: B, images per iteration over all processes.
            rank, world_size: r and R.
            start_iteration: iteration of the first batch.

        Raises ValueError: no images, a negative seed, or a batch that R processes cannot share equally.
        """
        if size < 1:
            raise ValueError(f"The data set has {size} images; expected at least 1: check DATASETS.TRAIN.")
        if seed < 0:
            raise ValueError(
                f"SEED is {seed}; expected a number >= 0: every image and augmentation follows from it. Set SEED, for example to 0."
            )
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {batch_size}; expected a positive multiple of the {world_size} process(es), which share a batch "
                f"equally: for example {max(1, batch_size // world_size) * world_size}."
            )
        self._size = size
        self._seed = seed
        self._batch_size = batch_size
        self._share = batch_size // world_size
        self._start = start_iteration * batch_size + rank * self._share

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """From the first position of ``start_iteration`` on, without end."""
        first = self._start
        while True:
            for position in range(first, first + self._share):
                yield position, self.index_at(position)
            first += self._batch_size

    def index_at(self, position: int) -> int:
        """The index of the image at a position, in 0..size-1."""
        epoch, offset = divmod(position, self._size)
        return int(epoch_permutation(self._seed, epoch, self._size)[offset])


def fraction_of(count: int, fraction: float, seed: int) -> list[int]:
    """Sorted indices of a subset of ``count`` images that depends only on ``seed`` and the count; a smaller fraction is a subset of a
    larger one.

    Args:
        count: of the images.
        fraction: in (0, 1]; at least one image is chosen.
        seed: of this choice only.
    """
    chosen = max(round(fraction * count), 1)
    return sorted(np.random.default_rng(seed).permutation(count)[:chosen].tolist())
