"""From names of data sets to batches."""

import logging
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..missing import missing_name
from ..utils.comm import get_world_size
from ..utils.env import seed_all_rng
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .samplers import InferenceSampler

__getattr__ = missing_name(__name__)

_Mapper = Callable[[dict], Any]
_logger = logging.getLogger("detectron2.data.build")


def trivial_batch_collator(batch: list) -> list:
    """Return the batch unchanged, as a list."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed torch, numpy and random of a worker process from the seed of the loader."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """Return the records that have an annotation without ``iscrowd``."""
    kept = [record for record in dataset_dicts if any(not one.get("iscrowd", 0) for one in record["annotations"])]
    removed = len(dataset_dicts) - len(kept)
    _logger.info("Removed %d images with no usable annotations. %d images left.", removed, len(kept))
    return kept


def get_detection_dataset_dicts(names: str | list[str], filter_empty: bool = True) -> list[dict]:
    """Return the records of one or more registered data sets, in order.

    ``filter_empty``: remove images whose annotations are all crowds, and images without annotations (if the records have annotations).
    KeyError for an unknown name, AssertionError if a data set, or the result, is empty, ValueError if data sets with annotations have
    different ``thing_classes``.
    """
    names = [names] if isinstance(names, str) else list(names)
    assert names, "get_detection_dataset_dicts takes at least one data set name."
    datasets = [DatasetCatalog.get(name) for name in names]
    for name, records in zip(names, datasets):
        assert records, f"Dataset {name!r} is empty."
    records = list(chain.from_iterable(datasets))
    if "annotations" in records[0]:
        if filter_empty:
            records = filter_images_with_only_crowd_annotations(records)
        classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
        if None not in classes and any(one != classes[0] for one in classes):
            raise ValueError(f"Datasets have different metadata 'thing_classes': {dict(zip(names, classes))}.")
    assert records, f"No valid data found in {', '.join(names)}."
    return records


def build_detection_train_loader(
    dataset: list[dict] | Dataset,
    *,
    mapper: _Mapper,
    sampler: Sampler,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
) -> Iterable[list]:
    """Return batches (lists) of mapped records, as long as the sampler yields indices. The subset has no form with a config.

    Args:
        dataset: records; a list is serialised.
        mapper: record -> item.
        sampler: indices.
        total_batch_size: over all processes; AssertionError if it is not a positive multiple of their number.
        aspect_ratio_grouping: see :class:`~.common.AspectRatioGroupedDataset`.
        num_workers: number of worker processes of this process; 0 loads in this process.
    """
    batch_size, rest = divmod(total_batch_size, get_world_size())
    assert batch_size > 0 and rest == 0, f"Total batch size ({total_batch_size}) is no positive multiple of {get_world_size()} processes."
    _logger.info("Making batched data loader with batch_size=%d", batch_size)
    stored = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    mapped = MapDataset(stored, mapper)
    # Workers take turns by whole batches: without grouping, the batches are the same for any number of workers.
    items = ToIterableDataset(mapped, sampler, shard_chunk_size=batch_size)
    options = {"num_workers": num_workers, "collate_fn": trivial_batch_collator, "worker_init_fn": worker_init_reset_seed}
    if aspect_ratio_grouping:
        return AspectRatioGroupedDataset(DataLoader(items, batch_size=None, **options), batch_size)
    return DataLoader(items, batch_size, drop_last=True, **options)


def build_detection_test_loader(dataset: list[dict], *, mapper: _Mapper, num_workers: int = 0) -> Iterable[list]:
    """Return every mapped record once over all processes, one record per batch. The subset has no form with a config.

    Args:
        dataset: records.
        mapper: record -> item.
        num_workers: number of worker processes of this process; 0 loads in this process.
    """
    mapped = MapDataset(DatasetFromList(dataset, copy=False), mapper)
    return DataLoader(mapped, 1, sampler=InferenceSampler(len(dataset)), num_workers=num_workers, collate_fn=trivial_batch_collator)
