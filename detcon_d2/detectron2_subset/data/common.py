"""Data sets over lists and functions."""

import copy
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info


class DatasetFromList(Dataset):
    """A list as a data set.

    A serialised list is stored as two numpy arrays. Forked worker processes share their memory pages, while pages with Python objects are
    copied when a worker reads them.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool = True) -> None:
        """``serialize``: store the list as arrays. ``copy``: items are deep copies (serialised items always are)."""
        self._copy = copy and not serialize
        self._items = _PickledList(lst) if serialize else lst

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
    """``map_func`` of each item of a map-style data set."""

    def __init__(self, dataset: Dataset, map_func: Callable[[Any], Any]) -> None:
        """``map_func``: item -> item. Unlike in Detectron2, it must not return None to skip an item."""
        self._dataset, self._map_func = dataset, map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        return self._map_func(self._dataset[idx])


class ToIterableDataset(IterableDataset):
    """A map-style data set in the order of a sampler. The workers of a loader take turns, ``shard_chunk_size`` indices at a time."""

    def __init__(self, dataset: Dataset, sampler: Sampler, shard_chunk_size: int = 1) -> None:
        """``sampler`` yields the same indices in every worker."""
        self.dataset, self.sampler, self.shard_chunk_size = dataset, sampler, shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        for position, index in enumerate(self.sampler):
            if worker is None or position // self.shard_chunk_size % worker.num_workers == worker.id:
                yield self.dataset[index]


class AspectRatioGroupedDataset(IterableDataset):
    """Batches of images that are all wider than high, or all not wider than high, so that they need little padding."""

    def __init__(self, dataset: Iterable[dict], batch_size: int) -> None:
        """``dataset``: dicts with "width" and "height"."""
        self.dataset, self.batch_size = dataset, batch_size
        # Images that wait for a full batch are kept between iterations.
        self._waiting: dict[bool, list[dict]] = {True: [], False: []}

    def __iter__(self) -> Iterator[list[dict]]:
        for item in self.dataset:
            wide = item["width"] > item["height"]
            self._waiting[wide].append(item)
            if len(self._waiting[wide]) == self.batch_size:
                # The batch is removed before it is yielded: if the iteration stops here, the batch does not come twice.
                batch, self._waiting[wide] = self._waiting[wide], []
                yield batch
