"""The indices of each process."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import Sampler

from ...utils import comm


class TrainingSampler(Sampler):
    """An infinite stream of random permutations of all indices. Of R processes, each takes every R-th index, beginning at its rank.

    The permutations come from one generator with ``seed`` and equal those of Detectron2 for the same seed. All workers of a loader get
    the same indices: use the sampler with map-style data sets.
    """

    def __init__(self, size: int, *, seed: int | None = None) -> None:
        """``size``: the number of items. ``seed`` None: a random seed on which the processes agree.

        TypeError or ValueError if the size is not a positive int.
        """
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler takes an int for its size, found {type(size).__name__}.")
        if size <= 0:
            raise ValueError(f"TrainingSampler takes a positive size, found {size}.")
        self._size = size
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return islice(self._stream(), self._rank, None, self._world_size)

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            yield from torch.randperm(self._size, generator=generator).tolist()


class InferenceSampler(Sampler):
    """Every index exactly once over all processes: consecutive ranges, of which the first are longer by one if the size does not divide."""

    def __init__(self, size: int) -> None:
        """``size``: the number of items, positive."""
        assert size > 0, f"InferenceSampler takes a positive size, found {size}."
        share, left_over = divmod(size, comm.get_world_size())
        rank = comm.get_rank()
        start = rank * share + min(rank, left_over)
        self._indices = range(start, start + share + (rank < left_over))

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)
