"""Data sets over lists and functions."""

import copy
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

_WARN_AFTER = 3


class DatasetFromList(Dataset):
    """A list as a data set. Serialised, it is two numpy arrays, whose pages forked workers share (Python objects are copied on read)."""

    def __init__(self, lst: list, copy: bool = True, serialize: bool | Callable[[list], Any] = True) -> None:
        """``serialize``: True, False, or a function from the list to something with ``len`` and indexing. ``copy``: items are deep copies
        (serialised ones always are).
        """
        self._copy = copy and not serialize
        if serialize is True:
            serialize = _PickledList
        self._items = serialize(lst) if serialize else lst

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, idx: int) -> Any:
        item = self._items[idx]
        return copy.deepcopy(item) if self._copy else item


class _PickledList:
    def __init__(self, items: list) -> None:
        pickled = [pickle.dumps(item, protocol=-1) for item in items]
        self._ends = np.cumsum([0, *map(len, pickled)])
        self._bytes = np.frombuffer(b"".join(pickled), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, idx: int) -> Any:
        position = range(len(self))[idx]
        return pickle.loads(self._bytes[self._ends[position] : self._ends[position + 1]].tobytes())


class MapDataset(Dataset):
    """``map_func`` over a map-style data set; where it returns None, other items are tried at random."""

    def __init__(self, dataset: Dataset, map_func: Callable[[Any], Any]) -> None:
        """``map_func``: item -> item or None."""
        self._dataset = dataset
        self._map_func = map_func
        # Every worker copies the same state: a fixed seed keeps replacements reproducible.
        self._rng = random.Random(42)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        untried = set(range(len(self)))
        for failures in itertools.count(1):
            item = self._map_func(self._dataset[idx])
            if item is not None:
                return item
            if failures >= _WARN_AFTER:
                logging.getLogger("detectron2.data.common").warning("Failed to map item %s; %d failures in a row.", idx, failures)
            untried.discard(idx)
            idx = self._rng.choice(sorted(untried) or range(len(self)))


class ToIterableDataset(IterableDataset):
    """A map-style data set in the order of a sampler; workers of a loader take turns, ``shard_chunk_size`` indices at a time."""

    def __init__(self, dataset: Dataset, sampler: Sampler, shard_sampler: bool = True, shard_chunk_size: int = 1) -> None:
        """``shard_sampler`` False: every worker gives all items (for samplers that know of workers). AssertionError for other types."""
        assert not isinstance(dataset, IterableDataset), f"ToIterableDataset takes a map-style data set, found {dataset}."
        assert isinstance(sampler, Sampler), f"ToIterableDataset takes a Sampler, found {sampler}."
        self.dataset, self.sampler, self.shard_sampler, self.shard_chunk_size = dataset, sampler, shard_sampler, shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info() if self.shard_sampler else None
        for position, index in enumerate(self.sampler):
            if worker is None or position // self.shard_chunk_size % worker.num_workers == worker.id:
                yield self.dataset[index]


class AspectRatioGroupedDataset(IterableDataset):
    """Batches of images that are all wider than high, or all not, so that they need little padding."""

    def __init__(self, dataset: Iterable[dict], batch_size: int) -> None:
        """``dataset``: dicts with "width" and "height"."""
        self.dataset, self.batch_size = dataset, batch_size
        # Kept between iterations: what is left over is not lost.
        self._waiting: dict[bool, list[dict]] = {True: [], False: []}

    def __iter__(self) -> Iterator[list[dict]]:
        for item in self.dataset:
            wide = item["width"] > item["height"]
            self._waiting[wide].append(item)
            if len(self._waiting[wide]) == self.batch_size:
                # Taken out first: whoever stops the iteration here does not see the batch twice.
                batch, self._waiting[wide] = self._waiting[wide], []
                yield batch
