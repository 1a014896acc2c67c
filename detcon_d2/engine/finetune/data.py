"""Data of detectors: a fraction of the labels, and Detectron2's mappers and loaders."""

import hashlib
import json
import logging
from collections.abc import Sequence

import torch

from detcon_d2 import d2
from detcon_d2.data.loader import init_worker, limit_opencv_threads
from detcon_d2.data.reading import reading_from_config
from detcon_d2.data.sampler import fraction_of
from detcon_d2.engine.finetune.batches import build_batches
from detcon_d2.engine.finetune.look import look_at_data
from detcon_d2.engine.finetune.mapper import DetectionMapper
from detcon_d2.engine.finetune.semantic import SemanticMapper, is_semantic, look_at_labels
from detcon_d2.engine.generators import States

logger = logging.getLogger(__name__)


def load_detection_records(cfg: "d2.CfgNode") -> list[dict]:
    """The training images of DATASETS.TRAIN with their annotations, or the LABEL_FRACTION of them.

    Raises ValueError: a data set that is unknown, unreadable or empty, or whose number of categories is not MODEL.ROI_HEADS.NUM_CLASSES.
    """
    finetune = cfg.DETCON.FINETUNE
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty; expected data sets, for example '(\"coco:/path/instances.json,/path/images\",)'.")
    records = _load_records(cfg, "TRAIN", cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    if finetune.LABEL_FRACTION == 1:
        return records
    chosen = choose_fraction(records, finetune.LABEL_FRACTION, finetune.LABEL_SEED)
    found = (finetune.LABEL_FRACTION, len(chosen), len(records), finetune.LABEL_SEED)
    logger.info("DETCON.FINETUNE.LABEL_FRACTION %g: %d of %d images, chosen by LABEL_SEED %d.", *found)
    return chosen


def choose_fraction(records: list[dict], fraction: float, seed: int) -> list[dict]:
    """The records at the indices of :func:`fraction_of`."""
    return [records[index] for index in fraction_of(len(records), fraction, seed)]


def look_at_data_sets(
    cfg: "d2.CfgNode", train: Sequence[str], test: Sequence[str], classes: Sequence[str] = (), resumed: bool = False
) -> list[str]:
    """:func:`~detcon_d2.engine.finetune.look.look_at_data` of a detector, or the same for semantic segmentation."""
    return look_at_labels(cfg, train, test) if is_semantic(cfg) else look_at_data(cfg, train, test, classes, resumed)


def annotations_digest(records: list[dict]) -> str:
    """Hash of the image ids and the number of annotations of each image."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record['image_id']} {len(record.get('annotations', ()))}\n".encode())
    return digest.hexdigest()[:16]


def catalog_categories(name: str, semantic: bool = False) -> tuple[list[str], list[int]]:
    """Names of the classes of a registered data set and their ids in it, in the order of a model's outputs; empty if unknown.

    ``semantic``: of semantic segmentation, which are numbered from 0.
    """
    metadata = d2.MetadataCatalog.get(name)
    if semantic:
        classes = list(metadata.stuff_classes)
        return classes, list(range(len(classes)))
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    return list(metadata.get("thing_classes") or ()), sorted(ids, key=ids.get)


def build_detection_mapper(cfg: "d2.CfgNode") -> DetectionMapper:
    """The training mapper with DETCON.FINETUNE.AUGMENTATION, or that of semantic segmentation.

    "default" is Detectron2's own mapper, configured by the INPUT keys.
    "scale_jitter" resizes the long side to JITTER_SIZE times a factor that is uniform in JITTER_SCALE, crops a square of side JITTER_SIZE,
    padded where the image is smaller, and flips.
    """
    finetune, flip, T = cfg.DETCON.FINETUNE, cfg.INPUT.RANDOM_FLIP, d2.transforms
    if is_semantic(cfg):
        return SemanticMapper(cfg, True)
    if finetune.AUGMENTATION == "default":
        return DetectionMapper(cfg, True)
    side = finetune.JITTER_SIZE
    augmentations = [T.ResizeScale(*finetune.JITTER_SCALE, side, side), T.FixedSizeCrop((side, side))]
    if flip != "none":
        augmentations.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    # A crop cuts objects: recompute each box from the visible part of its mask.
    return DetectionMapper(cfg, True, augmentations=augmentations, recompute_boxes=cfg.MODEL.MASK_ON)


def build_finetune_loader(
    cfg: "d2.CfgNode", records: list[dict], seed: int | None, num_workers: int, *, start: int = 0, waiting: Sequence[States] = ()
) -> torch.utils.data.DataLoader:
    """This process's share of batches of SOLVER.IMS_PER_BATCH, indefinitely.

    Args:
        cfg: the resolved config.
        records: the same list in every process.
        seed: of the order of the images, the same in every process; None: a random order.
        num_workers: loader processes; with 0, this process loads.
        start: number of batches that are left out, because an earlier run has used them.
        waiting: see :class:`~detcon_d2.engine.finetune.batches.TrainerBatches`.
    """
    seed = d2.comm.shared_random_seed() if seed is None else seed
    mapper = build_detection_mapper(cfg)
    return build_batches(cfg, records, mapper, seed=seed, num_workers=num_workers, start=start, waiting=waiting)


def build_evaluation_loader(cfg: "d2.CfgNode", name: str) -> torch.utils.data.DataLoader:
    """This process's share of one data set of DATASETS.TEST, one image per batch.

    Raises ValueError: an unknown or empty data set, or one whose number of categories is not that of the model.
    """
    records = _load_records(cfg, "TEST", [name], filter_empty=False)
    for line in reading_from_config(cfg).describe(records):
        logger.info(line)
    mapper = (SemanticMapper if is_semantic(cfg) else DetectionMapper)(cfg, False)
    loader = d2.build_detection_test_loader(dataset=records, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
    limit_opencv_threads()
    loader.worker_init_fn = init_worker
    return loader


def _load_records(cfg: "d2.CfgNode", key: str, names: Sequence[str], filter_empty: bool) -> list[dict]:
    """Also compares the number of categories with that of the model's classes. Models without RoI heads are not checked."""
    if not set(names) <= set(d2.DatasetCatalog.list()):
        look_at_data_sets(cfg, **{"train": (), "test": ()} | {key.lower(): names})
    try:
        records = d2.get_detection_dataset_dicts(list(names), filter_empty=filter_empty)
    except (AssertionError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"DATASETS.{key} {', '.join(names)} cannot be read: {error}") from error
    expected = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for name in names if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" else ():
        classes = d2.MetadataCatalog.get(name).get("thing_classes")
        if classes is not None and len(classes) != expected:
            shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise ValueError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {expected}, but {name} has {len(classes)} categories ({shown}). "
                f"Set MODEL.ROI_HEADS.NUM_CLASSES {len(classes)}."
            )
    return records
