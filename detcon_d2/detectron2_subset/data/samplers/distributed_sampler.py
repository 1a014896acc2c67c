"""Which indices each process gets."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import Sampler

from ...utils import comm


class TrainingSampler(Sampler):
    """Without end: every R-th index, from this process' rank on, of one permutation of all indices after the other.

    The permutations come from one generator with ``seed``, so they are Detectron2's for the same seed. Not sharded by worker: use it with
    map-style data sets.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        """``size``: number of items. ``shuffle`` False: ascending order. ``seed`` None: a random one that the processes agree on.

        TypeError or ValueError if the size is not a positive int.
        """
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler takes an int for its size, found {type(size).__name__}.")
        if size <= 0:
            raise ValueError(f"TrainingSampler takes a positive size, found {size}.")
        self._size = size
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return islice(self._stream(), self._rank, None, self._world_size)

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            order = torch.randperm(self._size, generator=generator) if self._shuffle else torch.arange(self._size)
            yield from order.tolist()


class InferenceSampler(Sampler):
    """Each index exactly once over all processes: consecutive shares, the first ones longer by one where the size does not divide."""

    def __init__(self, size: int) -> None:
        """``size``: number of items, positive."""
        assert size > 0, f"InferenceSampler takes a positive size, found {size}."
        share, left_over = divmod(size, comm.get_world_size())
        rank = comm.get_rank()
        start = rank * share + min(rank, left_over)
        self._indices = range(start, start + share + (rank < left_over))

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)
