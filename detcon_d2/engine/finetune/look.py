"""One look at all data sets of a detector before the first iteration: what is odd is reported, what would go wrong later is refused."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detcon_d2 import d2
from detcon_d2.data.reading import reading_from_config
from detcon_d2.io.annotated.checks import check_annotations, class_difference, no_annotations, only_crowds, refusals
from detcon_d2.io.annotated.dataset import AnnotatedData
from detcon_d2.io.annotated.kinds import FORMS, is_annotated_spec
from detcon_d2.io.annotated.read import read_annotated
from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.io.images import Reading

_NO_MASKS = "set MODEL.MASK_ON False to train a detector of boxes"
_JSON_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints", "num_keypoints")


def look_at_data(
    cfg: "d2.CfgNode", train: Sequence[str], test: Sequence[str], classes: Sequence[str] = (), resumed: bool = False
) -> list[str]:
    """Read, check and register data sets; each is a spec (:mod:`detcon_d2.io.annotated.kinds`) or a name in Detectron2's catalog.

    A spec becomes a data set of the catalogs under its own name. Its records have Detectron2's format and hold only checked segmentations;
    for the evaluator, the same annotations are written as COCO json to ``OUTPUT_DIR/inference``. Classes are compared by name: with equal
    names in another order, a spec gets the order of the reference, which is the checkpoint, or else the first data set.

    Args:
        cfg: MODEL.MASK_ON, INPUT.MASK_FORMAT, DETCON.DATA, DETCON.ON_BAD_IMAGE and OUTPUT_DIR are read.
        train, test: names of data sets to train and evaluate on.
        classes: of the checkpoint from which the run starts; empty if unknown.
        resumed: whether that checkpoint is continued, and its classes must be these.

    Returns:
        the lines to print.

    Raises:
        ValueError: a data set that is unknown or cannot be read, classes that differ, or annotations that a detector cannot be trained on.
    """
    reading = reading_from_config(cfg)
    found = {name: _read(name, cfg.MODEL.MASK_ON, reading) for name in dict.fromkeys([*train, *test])}
    lines = [line for data in found.values() for line in data.summary()]
    skip = cfg.DETCON.ON_BAD_IMAGE == "skip"
    wrong = []
    for name, data in found.items():
        refused = refusals(data, cfg.DETCON.DATA.MAX_LEFT_OUT, no_masks=_NO_MASKS, skip_images=skip)
        wrong += refused or (_untrainable(data, cfg) if name in train else [])
    if wrong:
        raise ValueError("\n".join(wrong))
    reference, title = list(classes), "the checkpoint"
    if reference and train and not resumed and set(reference) != set(found[train[0]].class_names()):
        lines.append(
            f"MODEL.WEIGHTS detects other classes ({', '.join(reference[:10])}): only what does not depend on classes fits {train[0]}."
        )
        reference = []
    for data in found.values():
        if not reference:
            reference, title = data.class_names(), data.name
        lines += _match_classes(data, reference, title)
    for number, (name, data) in enumerate(found.items()):
        if is_annotated_spec(name):
            _register(data, cfg, Path(cfg.OUTPUT_DIR, "inference", f"{number}_{_slug(name)}.json") if name in test else None)
        else:
            register_records(name, _detectron2_records(data, cfg.MODEL.MASK_ON), unchecked_records(name))
    return lines


def spec_categories(spec: str) -> tuple[list[str], list]:
    """Names of the classes of a spec and their ids, in the order of a detector's outputs; both empty if it cannot be read here."""
    try:
        data = read_annotated(spec)
    except ValueError:
        return [], []
    return data.class_names(), list(data.categories)


def _read(name: str, masks: bool, reading: Reading) -> AnnotatedData:
    if is_annotated_spec(name):
        data = read_annotated(name, reading)
        check_annotations(data, masks=masks, reading=reading)
        return data
    if name not in d2.DatasetCatalog.list():
        if re.match(r"(folder|list|tar):", name):
            raise ValueError(f"{name!r} has no annotations for a detector; expected {FORMS}.")
        known = ", ".join(d2.DatasetCatalog.list()) or "it is empty"
        more = " Detectron2 registers more names than the subset; install detectron2 for those." if d2.BACKEND == "subset" else ""
        raise ValueError(f"{name!r} is not a data set; expected {FORMS} or a name in the catalog: {known}.{more}")
    try:
        records = unchecked_records(name)()
    except (AssertionError, KeyError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"The data set {name} cannot be read: {error}") from error
    return _from_records(records, name, masks, reading)


def _from_records(records: list[dict], name: str, masks: bool, reading: Reading) -> AnnotatedData:
    """Detectron2's records as data that can be checked: boxes become x, y, width, height."""
    copies = []
    for record in records:
        annotations = [{key: _plain(value) for key, value in one.items()} for one in record.get("annotations") or ()]
        for annotation in annotations:
            if annotation.get("bbox_mode") == d2.BoxMode.XYXY_ABS and len(annotation["bbox"]) == 4:
                x0, y0, x1, y1 = map(float, annotation["bbox"])
                annotation |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "bbox_mode": d2.BoxMode.XYWH_ABS}
        copies.append(record | {"key": record["file_name"], "annotations": annotations})
    classes = d2.MetadataCatalog.get(name).get("thing_classes") or ()
    data = AnnotatedData(name, copies, dict(enumerate(classes)), has_annotations=any("annotations" in record for record in records))
    # Rotated boxes have five numbers.
    if all(annotation.get("bbox_mode") == d2.BoxMode.XYWH_ABS for annotation in data.annotations()):
        given = {key for annotation in data.annotations() for key in annotation}
        check_annotations(data, masks=masks, reading=reading)
        for annotation in data.annotations():
            if "area" not in given:
                del annotation["area"]
    return data


def _plain(value: Any) -> Any:
    """Lists in place of arrays, also in a list."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value] if any(isinstance(one, np.ndarray) for one in value) else value
    return value.tolist() if isinstance(value, np.ndarray) else value


def unchecked_records(name: str) -> Callable[[], list[dict]]:
    """The function of a catalog's data set, as it was before a look."""
    function = d2.DatasetCatalog[name]
    return getattr(function, "unchecked", function)


def register_records(name: str, records: list[dict], unchecked: Callable | None = None) -> None:
    """Put checked records in the place of a catalog's data set, whose function ``unchecked`` was until now."""
    d2.DatasetCatalog.pop(name, None)

    def checked() -> list[dict]:
        return records

    if unchecked is not None:
        checked.unchecked = unchecked
    d2.DatasetCatalog.register(name, checked)


def _untrainable(data: AnnotatedData, cfg: "d2.CfgNode") -> list[str]:
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        return []
    objects = [one for one in data.annotations() if not one.get("iscrowd")]
    if not objects:
        return [only_crowds(data) or f"{no_annotations(data)}; expected objects to train on"]
    coded = sum(isinstance(one.get("segmentation"), dict) for one in objects)
    if cfg.MODEL.MASK_ON and coded and cfg.INPUT.MASK_FORMAT == "polygon":
        return [f"{data.name}: {coded} of {len(objects)} masks are RLE, but INPUT.MASK_FORMAT is polygon; set INPUT.MASK_FORMAT bitmask"]
    return []


def _match_classes(data: AnnotatedData, reference: list[str], title: str) -> list[str]:
    names = data.class_names()
    # A catalog need not have names.
    if names == reference or not names:
        return []
    if difference := class_difference(data, reference, title):
        raise ValueError(difference)
    if not is_annotated_spec(data.name):
        raise ValueError(f"The classes of {data.name} are in another order than those of {title}; register them in the same order")
    number = {name: index for index, name in enumerate(reference, 1)}
    new_ids = {old: number[name] for old, name in data.categories.items()}
    for annotation in data.annotations():
        annotation["category_id"] = new_ids[annotation["category_id"]]
    data.categories = {index: name for name, index in number.items()}
    return [
        f"{data.name} numbers its classes differently from {title}: they are matched by name, and results have the numbers 1, 2, ... of it."
    ]


def _register(data: AnnotatedData, cfg: "d2.CfgNode", json_file: Path | None) -> None:
    records = _detectron2_records(data, cfg.MODEL.MASK_ON)
    # A run in the same process may have registered this name with another OUTPUT_DIR.
    register_records(data.name, records)
    d2.MetadataCatalog.pop(data.name, None)
    contiguous = {category: index for index, category in enumerate(data.categories)}
    metadata = {"thing_classes": data.class_names(), "thing_dataset_id_to_contiguous_id": contiguous, "evaluator_type": "coco"}
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        # Each process writes the same, at once: it may be the only one on its machine.
        write_bytes_atomically(json_file, json.dumps(_coco_json(data)).encode())
        metadata["json_file"] = str(json_file)
    d2.MetadataCatalog.get(data.name).set(**metadata)


def _detectron2_records(data: AnnotatedData, masks: bool) -> list[dict]:
    """Detectron2's dataset dicts, of a spec in the order of the image ids. An image without a size cannot be read and is left out."""
    there = [record for record in data.records if "height" in record]
    if not is_annotated_spec(data.name):
        unused = {"key", *(() if data.has_annotations else ("annotations",))}
        return [{key: value for key, value in record.items() if key not in unused} for record in there]
    contiguous = {category: index for index, category in enumerate(data.categories)}
    return [
        {key: one[key] for key in ("file_name", "height", "width", "image_id")}
        | {"annotations": [_instance(thing, contiguous, masks) for thing in one["annotations"]]}
        for one in sorted(there, key=lambda one: one["image_id"])
    ]


def _instance(annotation: dict, contiguous: dict, masks: bool) -> dict:
    wanted = ("iscrowd", "bbox", "keypoints", *(("segmentation",) if masks else ()))
    instance = {key: annotation[key] for key in wanted if key in annotation}
    if instance.get("keypoints"):
        # COCO counts pixels, Detectron2 measures from the corner of the image.
        instance["keypoints"] = [value if index % 3 == 2 else value + 0.5 for index, value in enumerate(instance["keypoints"])]
    return instance | {"bbox_mode": d2.BoxMode.XYWH_ABS, "category_id": contiguous[annotation["category_id"]]}


def _coco_json(data: AnnotatedData) -> dict[str, Any]:
    images = [
        {"id": one["image_id"], "file_name": one["key"], **{side: one.get(side, 0) for side in ("height", "width")}} for one in data.records
    ]
    content = {"info": {}, "images": images, "categories": [{"id": one, "name": name} for one, name in data.categories.items()]}
    if data.has_annotations:
        content["annotations"] = [{key: one[key] for key in _JSON_KEYS if key in one} for one in data.annotations()]
    return content


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[-100:]
