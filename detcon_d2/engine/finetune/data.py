"""Data of detectors: registered COCO specs, a fraction of the labels, and Detectron2's mappers and loaders over them."""

import json
import logging
import os
from collections.abc import Iterable

import numpy as np
import torch

from detcon_d2 import d2
from detcon_d2.io.specs import canonical_spec, is_dataset_spec

logger = logging.getLogger(__name__)

AUGMENTATIONS: tuple[str, ...] = ("default", "scale_jitter")
"""Values of DETCON.FINETUNE.AUGMENTATION."""


def register_data_sets(names: Iterable[str]) -> None:
    """Put ``coco:/path/instances.json,/path/images`` specs into Detectron2's catalogs, under the spec itself; other names must be there.

    Raises:
        ValueError: an unknown name, a spec of another kind, or a path that does not exist.
    """
    for name in names:
        if name in d2.DatasetCatalog.list():
            continue
        if not is_dataset_spec(name):
            raise ValueError(
                f"{name!r} is no data set. Expected coco:/path/instances.json,/path/images or a name in the catalog: "
                f"{', '.join(d2.DatasetCatalog.list()) or 'it is empty'}."
            )
        d2.register_coco_instances(name, {}, *_coco_paths(name))


def load_detection_records(cfg: "d2.CfgNode") -> list[dict]:
    """The training images of DATASETS.TRAIN with their annotations, or the LABEL_FRACTION of them.

    Raises:
        ValueError: a data set that is unknown, unreadable or empty, or whose categories are not MODEL.ROI_HEADS.NUM_CLASSES many.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise ValueError("DATASETS.TRAIN is empty; expected data sets, for example '(\"coco:/path/instances.json,/path/images\",)'.")
    register_data_sets(names)
    try:
        records = d2.get_detection_dataset_dicts(list(names), filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    except (AssertionError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"DATASETS.TRAIN {', '.join(names)} cannot be read: {error}") from error
    check_classes(cfg, names)
    fraction = cfg.DETCON.FINETUNE.LABEL_FRACTION
    if fraction == 1:
        return records
    chosen = choose_fraction(records, fraction, cfg.DETCON.FINETUNE.LABEL_SEED)
    logger.info(
        "DETCON.FINETUNE.LABEL_FRACTION %g: %d of %d images, chosen by LABEL_SEED %d.",
        fraction,
        len(chosen),
        len(records),
        cfg.DETCON.FINETUNE.LABEL_SEED,
    )
    return chosen


def choose_fraction(records: list[dict], fraction: float, seed: int) -> list[dict]:
    """A part of the images that depends on ``seed`` and the list alone; a smaller fraction is a part of a larger one.

    Args:
        records: Detectron2 dataset dicts.
        fraction: in (0, 1]; at least one image is chosen.
        seed: of the choice; nothing else uses it.
    """
    count = max(round(fraction * len(records)), 1)
    return [records[index] for index in sorted(np.random.default_rng(seed).permutation(len(records))[:count])]


def check_classes(cfg: "d2.CfgNode", names: Iterable[str]) -> None:
    """Compare the categories of loaded data sets with the classes of the heads; does nothing for models without RoI heads.

    Raises:
        ValueError: naming the key, its value, the data set and its categories.
    """
    expected = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for name in names:
        classes = d2.MetadataCatalog.get(name).get("thing_classes")
        if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" and classes is not None and len(classes) != expected:
            shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise ValueError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {expected}, but {name} has {len(classes)} categories ({shown}). "
                f"Set MODEL.ROI_HEADS.NUM_CLASSES {len(classes)}."
            )


def build_augmentations(cfg: "d2.CfgNode") -> list:
    """Detectron2 augmentations of DETCON.FINETUNE.AUGMENTATION "scale_jitter": resize the long side, crop to a square, flip.

    The long side becomes JITTER_SIZE times a factor uniform in JITTER_SCALE; the crop of JITTER_SIZE squared is padded beyond the image.
    """
    finetune = cfg.DETCON.FINETUNE
    low, high = finetune.JITTER_SCALE
    side = finetune.JITTER_SIZE
    T = d2.transforms
    augmentations = [T.ResizeScale(low, high, side, side), T.FixedSizeCrop((side, side))]
    if cfg.INPUT.RANDOM_FLIP != "none":
        augmentations.append(T.RandomFlip(horizontal=cfg.INPUT.RANDOM_FLIP == "horizontal", vertical=cfg.INPUT.RANDOM_FLIP == "vertical"))
    return augmentations


def build_detection_mapper(cfg: "d2.CfgNode") -> "d2.DatasetMapper":
    """The training mapper that DETCON.FINETUNE.AUGMENTATION names; "default" is Detectron2's own, from the INPUT keys."""
    if cfg.DETCON.FINETUNE.AUGMENTATION == "default":
        return d2.DatasetMapper(cfg, True)
    return d2.DatasetMapper(
        is_train=True,
        augmentations=build_augmentations(cfg),
        image_format=cfg.INPUT.FORMAT,
        use_instance_mask=cfg.MODEL.MASK_ON,
        instance_mask_format=cfg.INPUT.MASK_FORMAT,
        # A crop cuts objects; a box is then that of the visible part.
        recompute_boxes=cfg.MODEL.MASK_ON,
    )


def build_finetune_loader(cfg: "d2.CfgNode", records: list[dict], seed: int | None, num_workers: int) -> torch.utils.data.DataLoader:
    """This process's share of batches of SOLVER.IMS_PER_BATCH, for ever.

    Args:
        cfg: the resolved config.
        records: the same list in every process.
        seed: of the order of the images, the same in every process; None: by chance.
        num_workers: loader processes; 0 loads in this one.
    """
    return d2.build_detection_train_loader(
        dataset=records,
        mapper=build_detection_mapper(cfg),
        sampler=d2.TrainingSampler(len(records), seed=seed),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=num_workers,
    )


def build_evaluation_loader(cfg: "d2.CfgNode", name: str) -> torch.utils.data.DataLoader:
    """This process's share of one data set of DATASETS.TEST, an image at a time.

    Raises:
        ValueError: an unknown or empty data set, or one with other categories than the heads.
    """
    register_data_sets([name])
    try:
        records = d2.get_detection_dataset_dicts([name], filter_empty=False)
    except (AssertionError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"DATASETS.TEST {name} cannot be read: {error}") from error
    check_classes(cfg, [name])
    return d2.build_detection_test_loader(dataset=records, mapper=d2.DatasetMapper(cfg, False), num_workers=cfg.DATALOADER.NUM_WORKERS)


def _coco_paths(spec: str) -> tuple[str, str]:
    kind, _, rest = canonical_spec(spec).partition(":")
    paths = rest.split(",")
    if kind != "coco" or len(paths) != 2:
        raise ValueError(f"{spec!r} has no annotations for a detector; expected coco:/path/instances.json,/path/images.")
    for path, exists, kind in zip(paths, (os.path.isfile, os.path.isdir), ("file", "folder")):
        if not exists(path):
            raise ValueError(f"{spec!r}: there is no {kind} {path}; expected coco:/path/instances.json,/path/images.")
    return paths[0], paths[1]
