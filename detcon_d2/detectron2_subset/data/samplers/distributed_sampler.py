"""Which indices each process gets."""

import logging
import math
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import Sampler

from ...utils import comm

_logger = logging.getLogger("detectron2.data.samplers.distributed_sampler")


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
            epoch = self._epoch(generator)
            order = torch.randperm(len(epoch), generator=generator) if self._shuffle else torch.arange(len(epoch))
            yield from epoch[order].tolist()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return torch.arange(self._size)


class RepeatFactorTrainingSampler(TrainingSampler):
    """A TrainingSampler that shows index i on average ``repeat_factors[i]`` times an epoch, for data sets with rare classes."""

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None) -> None:
        """``repeat_factors``: (N,) float, at least 0; the fraction is the chance of one more time, drawn anew each epoch."""
        super().__init__(len(repeat_factors), shuffle, seed)
        self._factors = repeat_factors

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        whole = self._factors.trunc()
        extra = torch.rand(self._size, generator=generator) < self._factors - whole
        return torch.arange(self._size).repeat_interleave(whole.long() + extra)

    @staticmethod
    def repeat_factors_from_category_frequency(dataset_dicts: list[dict], repeat_thresh: float, sqrt: bool = True) -> torch.Tensor:
        """(N,) factors of N records: the largest max(1, sqrt(``repeat_thresh`` / f)) of the categories in the image, 1 without any.

        f is the fraction of images with the category (LVIS, arXiv:1908.03195, appendix B.2). ``sqrt`` False: without the root.
        """
        images = [{one["category_id"] for one in record["annotations"]} for record in dataset_dicts]
        frequency = {category: count / len(images) for category, count in Counter(c for image in images for c in image).items()}
        ratios = {category: repeat_thresh / value for category, value in frequency.items()}
        factors = {category: max(1.0, math.sqrt(ratio) if sqrt else ratio) for category, ratio in ratios.items()}
        for category in sorted(factors):
            _logger.info("Cat ID %s: freq=%.2f, rep=%.2f", category, frequency[category], factors[category])
        return torch.tensor([max((factors[category] for category in image), default=1.0) for image in images])


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
