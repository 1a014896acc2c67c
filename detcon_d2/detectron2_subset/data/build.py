"""From data set names to batches."""

import logging
from itertools import chain

import torch

from ..utils.env import seed_all_rng
from .catalog import DatasetCatalog, MetadataCatalog


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
    logging.getLogger("detectron2.data.build").info("Removed %d images with no usable annotations. %d images left.", removed, len(kept))
    return kept


def get_detection_dataset_dicts(names: str | list[str], filter_empty: bool = True, check_consistency: bool = True) -> list[dict]:
    """The records of one or more registered data sets, in order.

    ``filter_empty``: drop images without annotations other than crowds (where records have annotations at all).
    ``check_consistency``: ValueError if annotated data sets disagree in their ``thing_classes``.
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
        if check_consistency and any(one != classes[0] for one in classes):
            raise ValueError(f"Datasets have different metadata 'thing_classes': {dict(zip(names, classes))}.")
    assert records, f"No valid data found in {', '.join(names)}."
    return records
