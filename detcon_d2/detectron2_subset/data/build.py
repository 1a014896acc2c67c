"""From data set names to batches."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from tabulate import tabulate
from termcolor import colored
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from ..config import CfgNode, configurable
from ..utils.comm import get_world_size
from ..utils.env import seed_all_rng
from ..utils.logger import log_first_n
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

_Mapper = Callable[[dict], Any]
_logger = logging.getLogger("detectron2.data.build")


def trivial_batch_collator(batch: list) -> list:
    """The batch as it is, a list."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed torch, numpy and random of a worker process from the loader's seed."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """The records that have an annotation without ``iscrowd``."""
    kept = [record for record in dataset_dicts if any(not one.get("iscrowd", 0) for one in record["annotations"])]
    removed = len(dataset_dicts) - len(kept)
    _logger.info("Removed %d images with no usable annotations. %d images left.", removed, len(kept))
    return kept


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: list[str]) -> None:
    """Log, once, how many instances without crowds each class has. AssertionError for a category without a name."""
    counts = Counter(one["category_id"] for record in dataset_dicts for one in record["annotations"] if not one.get("iscrowd", 0))
    unknown = sorted(counts.keys() - range(len(class_names)))
    assert not unknown, f"Got an invalid category_id={unknown} for a dataset of {len(class_names)} classes."
    cells = [cell for i, name in enumerate(class_names) for cell in (name if len(name) <= 13 else name[:11] + "..", counts[i])]
    width = min(6, len(cells))
    cells += [None] * (width - len(cells) % width) + ["total", counts.total()]
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    table = tabulate(rows, ["category", "#instances"] * (width // 2), tablefmt="pipe", numalign="left", stralign="center")
    message = f"Distribution of instances among all {len(class_names)} categories:\n{colored(table, 'cyan')}"
    log_first_n(logging.INFO, message, name=_logger.name, key="message")


def get_detection_dataset_dicts(names: str | list[str], filter_empty: bool = True, *, check_consistency: bool = True) -> list[dict]:
    """The records of one or more registered data sets, in order.

    ``filter_empty``: drop images without annotations other than crowds (where records have annotations at all).
    ``check_consistency``: ValueError if annotated data sets disagree in their ``thing_classes``, where all have them, and a histogram of
    the classes in the log.
    KeyError for an unknown name, AssertionError if a data set, or the result, is empty.
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
        if check_consistency and None not in classes:
            if any(one != classes[0] for one in classes):
                raise ValueError(f"Datasets have different metadata 'thing_classes': {dict(zip(names, classes))}.")
            print_instances_class_histogram(records, classes[0])
    assert records, f"No valid data found in {', '.join(names)}."
    return records


def build_batch_data_loader(
    dataset: Dataset, sampler: Sampler, total_batch_size: int, *, aspect_ratio_grouping: bool = False, **kwargs: Any
) -> Iterable[Any]:
    """Batches (lists) of ``total_batch_size`` over the number of processes.

    Args:
        dataset: map-style; with ``aspect_ratio_grouping`` of dicts, see :class:`~.common.AspectRatioGroupedDataset`.
        sampler: indices.
        total_batch_size: over all processes; AssertionError if it is not a positive multiple of their number.
        aspect_ratio_grouping: batch wide images with wide ones.
        kwargs: for torch's DataLoader: num_workers; collate_fn (without ``aspect_ratio_grouping``), what becomes of a list ...
    """
    batch_size, rest = divmod(total_batch_size, get_world_size())
    assert batch_size > 0 and rest == 0, f"Total batch size ({total_batch_size}) is no positive multiple of {get_world_size()} processes."
    _logger.info("Making batched data loader with batch_size=%d", batch_size)
    # Workers take turns by whole batches: without grouping, batches are the same for any number of workers.
    items = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    options = {"collate_fn": trivial_batch_collator, "worker_init_fn": worker_init_reset_seed, **kwargs}
    if aspect_ratio_grouping:
        if kwargs.get("collate_fn") is not None:
            raise NotImplementedError("collate_fn with aspect_ratio_grouping is not in the subset; install detectron2")
        return AspectRatioGroupedDataset(DataLoader(items, batch_size=None, **options), batch_size)
    return DataLoader(items, batch_size, drop_last=True, **options)


def _map_and_sample(
    dataset: list[dict] | Dataset, mapper: _Mapper | None, sampler: Sampler | None, default: type[Sampler]
) -> tuple[Dataset, Sampler]:
    if isinstance(dataset, IterableDataset):
        raise NotImplementedError("Loaders of iterable data sets are not in the subset; install detectron2")
    dataset = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    mapped = dataset if mapper is None else MapDataset(dataset, mapper)
    return mapped, default(len(dataset)) if sampler is None else sampler


def _train_loader_from_config(
    cfg: CfgNode, *, mapper: _Mapper | None = None, dataset: list[dict] | None = None, sampler: Sampler | None = None
) -> dict[str, Any]:
    if dataset is None:
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    return {
        "dataset": dataset,
        "sampler": _train_sampler(cfg, dataset) if sampler is None else sampler,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _train_sampler(cfg: CfgNode, dataset: list[dict]) -> Sampler:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    _logger.info("Using training sampler %s", name)
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=cfg.SEED)
    if name != "RepeatFactorTrainingSampler":
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN is {name!r}; the subset has TrainingSampler and RepeatFactorTrainingSampler.")
    rule = cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.REPEAT_SQRT
    return RepeatFactorTrainingSampler(RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dataset, *rule), seed=cfg.SEED)


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: list[dict] | Dataset, *, mapper: _Mapper | None, sampler: Sampler | None = None, total_batch_size: int, **kwargs: Any
) -> Iterable[Any]:
    """Batches of mapped records without end; call it with a config, ``(cfg, mapper=..., dataset=..., sampler=...)``, or with arguments.

    Args:
        dataset: records, or a map-style data set of them.
        mapper: record -> item, or None to try another record; by default of a config :class:`~.dataset_mapper.DatasetMapper`.
        sampler: by default a TrainingSampler; with a config it is the one DATALOADER.SAMPLER_TRAIN names, seeded with SEED (-1 as well),
            otherwise its seed is from numpy's global generator and the processes agree on it.
        total_batch_size: see :func:`build_batch_data_loader`.
        kwargs: for :func:`build_batch_data_loader`; ``aspect_ratio_grouping`` is True by default here (mapped items are then dicts with
            "width" and "height").
    """
    mapped, sampler = _map_and_sample(dataset, mapper, sampler, TrainingSampler)
    return build_batch_data_loader(mapped, sampler, total_batch_size, **{"aspect_ratio_grouping": True, **kwargs})


def _test_loader_from_config(cfg: CfgNode, dataset_name: str | list[str], mapper: _Mapper | None = None) -> dict[str, Any]:
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    mapper = DatasetMapper(cfg, False) if mapper is None else mapper
    return {"dataset": dataset, "mapper": mapper, "num_workers": cfg.DATALOADER.NUM_WORKERS}


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: list[dict] | Dataset, *, mapper: _Mapper, sampler: Sampler | None = None, batch_size: int = 1, **kwargs: Any
) -> DataLoader:
    """Every mapped record once over all processes; call it with a config, ``(cfg, dataset_name, mapper=...)``, or with arguments.

    Args:
        dataset: records, or a map-style data set of them.
        mapper: record -> item; by default of a config :class:`~.dataset_mapper.DatasetMapper` without annotations.
        sampler: by default an InferenceSampler.
        batch_size: of this process; the last batch may be smaller.
        kwargs: for torch's DataLoader: num_workers; collate_fn, what becomes of a list of items ...
    """
    mapped, sampler = _map_and_sample(dataset, mapper, sampler, InferenceSampler)
    return DataLoader(mapped, batch_size, sampler=sampler, **{"collate_fn": trivial_batch_collator, **kwargs})
