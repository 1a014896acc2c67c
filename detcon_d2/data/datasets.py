"""The images to train on, from the names in the config to one list of records."""

import hashlib
import logging
import os
from itertools import groupby
from operator import attrgetter

from detcon_d2 import d2
from detcon_d2.data.label_maps import attach_label_maps
from detcon_d2.data.reading import reading_from_config
from detcon_d2.io.specs import SPEC_FORMS, is_dataset_spec, list_images
from detcon_d2.io.tiles import tile_records

logger = logging.getLogger(__name__)

_TRAINING_KEYS = ("file_name", "image_id", "key", "height", "width", "label", "label_map_file_name", "tile", "clip")
TRAINING = ("DATASETS.TRAIN", "DETCON.MASKS.ROOTS")
HELD_OUT = ("DETCON.HELD_OUT.DATASETS", "DETCON.HELD_OUT.ROOTS")
"""Config keys of data sets and of their label maps."""


def load_records(name: str, key: str = TRAINING[0]) -> list[dict]:
    """The images of one data set, as Detectron2 dataset dicts with ``key`` (POSIX path relative to the data set's root).

    Args:
        name: a spec (:mod:`detcon_d2.io.specs`) or a name in Detectron2's DatasetCatalog.
        key: that has the name, for messages.

    Raises ValueError: an unknown name, or a data set without images.
    """
    if is_dataset_spec(name):
        return list_images(name)
    try:
        records = d2.DatasetCatalog.get(name)
    except KeyError:
        raise ValueError(
            f"{key} names {name!r}, which is no data set. Expected {SPEC_FORMS}, or a name in the catalog: "
            f"{', '.join(d2.DatasetCatalog.list()) or 'it is empty'}."
        ) from None
    if not records:
        raise ValueError(f"The data set {name!r} of the catalog has no images; expected at least one.")
    root = getattr(d2.MetadataCatalog.get(name), "image_root", None)
    root = root or os.path.commonpath([os.path.dirname(os.path.abspath(record["file_name"])) for record in records])
    keyed = [{**record, "key": os.path.relpath(record["file_name"], root).replace(os.sep, "/")} for record in records]
    return sorted(keyed, key=lambda record: record["key"])


def load_training_records(cfg: "d2.CfgNode", regions: bool = True, keys: tuple[str, str] = TRAINING) -> list[dict]:
    """All images of ``keys``, :data:`TRAINING` or :data:`HELD_OUT`, one data set after the other, each with its ``index`` in this list.

    An image larger than DETCON.DATA.TILES is one record for each of its tiles. A frame of ``video:`` has ``clip``: the index of the first
    frame of its clip, and the one after its last.

    With ``regions``, records have their label maps where DETCON.MASKS.SOURCE is "files". ``label`` is kept only if every image of every
    data set has one and the data sets agree on the names of the classes (of class folders; elsewhere on the numbers themselves).
    Otherwise it is dropped with a warning, because a label with two meanings would train the probe to nothing.

    Raises ValueError: no data set, one that cannot be read, or label maps that are missing (with the command that makes them).
    """
    names, roots = (list(attrgetter(key)(cfg)) for key in keys)
    source, reading = cfg.DETCON.MASKS.SOURCE, reading_from_config(cfg)
    if not names:
        raise ValueError(f"{keys[0]} is empty; expected data sets, for example '(\"folder:/path/to/images\",)'.")
    datasets = [load_records(name, keys[0]) for name in names]
    if regions and source not in ("files", "grid", "kmeans"):
        raise ValueError(f"DETCON.MASKS.SOURCE is {source!r}; expected 'files', 'grid' or 'kmeans'.")
    if regions and source == "files" and len(roots) != len(names):
        raise ValueError(
            f"{keys[1]} has {len(roots)} folders ({', '.join(roots)}), {keys[0]} {len(names)} data sets; expected one "
            "folder of label maps for each data set, in the same order (or DETCON.MASKS.SOURCE grid, which needs none)."
        )
    datasets = [tile_records(records, reading, progress=d2.comm.is_main_process()) for records in datasets]
    if regions and source == "files":
        options = cfg.DETCON.MASKS.LAYER, reading.tiles, cfg.DETCON.ON_BAD_IMAGE == "skip", keys[1]
        datasets = [attach_label_maps(*entry, *options) for entry in zip(datasets, roots, names)]
    _set_spans(datasets)
    # Annotations are not used here, and those of COCO would take gigabytes in every process.
    records = [{key: record[key] for key in _TRAINING_KEYS if key in record} for dataset in datasets for record in dataset]
    if any("label" in record for record in records) and not _labels_agree(names, datasets):
        logger.warning("The labels of %s are dropped: some images have none, or the data sets disagree on the classes.", keys[0])
        records = [{key: value for key, value in record.items() if key != "label"} for record in records]
    return [{**record, "index": index} for index, record in enumerate(records)]


def records_digest(records: list[dict]) -> str:
    """Hash of the keys in their order: equal where position k shows the same image."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(record["key"].encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:16]


def count_classes(records: list[dict]) -> int:
    """Classes of the online probe: highest label + 1, or 0 unless every record has a label."""
    if not records or any("label" not in record for record in records):
        return 0
    return max(record["label"] for record in records) + 1


def _set_spans(datasets: list[list[dict]]) -> None:
    """In place of its clip's name, each frame gets the span of its clip in the joined list."""
    first = 0
    for records in datasets:
        for name, group in groupby(records, lambda record: record.get("clip")):
            frames = list(group)
            if name is not None:
                for frame in frames:
                    frame["clip"] = (first, first + len(frames))
            first += len(frames)


def _labels_agree(names: list[str], datasets: list[list[dict]]) -> bool:
    if any("label" not in record for records in datasets for record in records):
        return False
    folders = [name.startswith(("folder:", "video:")) for name in names]
    tables = [
        {record["label"]: record["key"].split("/")[0] if named else str(record["label"]) for record in records}
        for named, records in zip(folders, datasets)
    ]
    return all(table == tables[0] for table in tables)
