"""Instances in label images: one PNG an image with a value an object, and Cityscapes' instanceIds."""

from pathlib import Path, PurePosixPath

import numpy as np

from detcon_d2.io.annotated.dataset import LEFT_OUT, WRONG, AnnotatedData, Findings, unique_ids
from detcon_d2.io.labels import NO_LABEL, read_labels
from detcon_d2.io.segmentations import encode_mask, extent
from detcon_d2.io.specs import list_images

# The classes of Cityscapes with instances that its benchmark scores, by label id (cityscapesscripts/helpers/labels.py).
_CITYSCAPES = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}


def read_masks(images: Path, masks: Path, name: str) -> AnnotatedData:
    """A folder of images and one of PNGs ``<key without extension>.png`` or ``<key>.png``, of one class, "object".

    Each value of a grey or palette PNG, or colour of an RGB one, is an object; 0 (black) is the background, and 65535 no object, nor
    is 255 in the palette of Pascal VOC.

    Args:
        images: folder of the images, with sub-folders.
        masks: folder of the PNGs, with the same sub-folders.
        name: of the data set, in messages.

    Raises:
        ValueError: no images, or no mask of any.
    """
    pairs = []
    for record in list_images(f"folder:{images}"):
        pure = PurePosixPath(record["key"])
        pairs.append((record, next((one for one in (masks / pure.with_suffix(".png"), masks / f"{pure}.png") if one.is_file()), None)))
    expected = f"{masks}/{PurePosixPath(pairs[0][0]['key']).with_suffix('.png')}"
    return _read_pairs(pairs, {1: "object"}, lambda value: (1, 0) if value not in (0, NO_LABEL) else None, name, expected)


def read_cityscapes(root: Path, split: str, name: str) -> AnnotatedData:
    """``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` with ``gtFine/<split>/<city>/*_gtFine_instanceIds.png``.

    Values of 1000 and more are objects (label id x 1000 + number); lower ones of a class with instances are groups and count as crowds.

    Args:
        root: with both folders.
        split: such as "train"; "": "train".
        name: of the data set, in messages.

    Raises:
        ValueError: no images, or no instanceIds of any.
    """
    split = split or "train"
    pairs = []
    for record in list_images(f"folder:{root / 'leftImg8bit' / split}"):
        path = root / "gtFine" / split / record["key"].replace("_leftImg8bit.", "_gtFine_instanceIds.")
        pairs.append((record, path if path.is_file() else None))

    def meaning(value: int) -> tuple[int, int] | None:
        category = value // 1000 if value >= 1000 else value
        return (category, int(value < 1000)) if category in _CITYSCAPES else None

    return _read_pairs(pairs, dict(_CITYSCAPES), meaning, name, f"{root}/gtFine/{split}/<city>/*_gtFine_instanceIds.png")


def _read_pairs(pairs: list, categories: dict, meaning, name: str, expected: str) -> AnnotatedData:
    if not any(path for _, path in pairs):
        raise ValueError(f"{name}: found no mask of any of the {len(pairs)} images; expected for example {expected}")
    findings, records = Findings(), []
    for (listed, path), image_id in zip(pairs, unique_ids([PurePosixPath(listed["key"]).stem for listed, _ in pairs])):
        record = {"file_name": listed["file_name"], "key": listed["key"], "image_id": image_id, "annotations": []}
        if path is None:
            findings.note("it has no mask file", LEFT_OUT, record, unit="image")
            continue
        records.append(record)
        try:
            labels = read_labels(path.read_bytes())
        except (OSError, ValueError) as error:
            findings.note("its mask file cannot be read", WRONG, record, detail=f"{path}: {error}", unit="image")
            continue
        if labels.ndim == 3:
            labels = labels.astype(np.int64) @ np.array([1, 256, 65536])
        record["height"], record["width"] = labels.shape
        for value in np.unique(labels).tolist():
            if (known := meaning(value)) is not None:
                record["annotations"].append(_annotation(labels == value, record, *known))
    return AnnotatedData(name, records, categories, findings)


def _annotation(mask: np.ndarray, record: dict, category: int, crowd: int) -> dict:
    rle = encode_mask(mask)
    annotation = {"image_id": record["image_id"], "category_id": category, "iscrowd": crowd, "area": int(mask.sum())}
    return annotation | {"bbox": extent(rle), "segmentation": rle}
