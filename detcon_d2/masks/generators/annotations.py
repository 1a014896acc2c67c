"""COCO annotations to a label map: polygons and RLE, compressed or not, crowds included."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from detcon_d2.masks.generators.base import RegionGenerator, to_label_map


@dataclass(frozen=True, kw_only=True)
class AnnotationRegions(RegionGenerator):
    """COCO instances, and everything else as one background region: see :func:`annotation_label_map`."""

    name = "annotations"
    needs_annotations = True

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        if record is None or "annotations" not in record:
            raise ValueError("annotations: found a record without annotations; expected one from coco:/path/instances.json,/path/images")
        found, expected = tuple(image.shape[:2]), (record.get("height", image.shape[0]), record.get("width", image.shape[1]))
        if found != expected:
            raise ValueError(
                f"annotations are for {expected[0]}x{expected[1]} (height x width), found an image of {found[0]}x{found[1]} after its EXIF "
                "orientation; expected the same size: annotate the image as displayed, or remove the orientation tag"
            )
        return to_label_map(annotation_label_map(record["annotations"], *found))


def annotation_label_map(annotations: list[dict], height: int, width: int) -> np.ndarray:
    """Id 0 is the background (and may be absent), instance k of the list has id k + 1; where instances overlap the smaller is on top.

    Areas are in pixels of the rasterised mask; of two equal ones the later is on top. A crowd is one instance. An instance that is covered
    completely, or has no pixel, has no id in the map.

    Args:
        annotations: COCO annotation dicts with "segmentation"; polygons in pixels of the image as displayed.

    Returns:
        int64 (height, width). Raises ValueError, which names the annotation, for no or a malformed segmentation, or an RLE of another size.
    """
    # Decoded one at a time: hundreds of decoded masks of a large photograph would fill the memory.
    rles = [_call(annotation, _encode, annotation.get("segmentation"), height, width) for annotation in annotations]
    areas = [int(coco_mask.area(rle)) for rle in rles]
    label_map = np.zeros((height, width), np.int64)
    for index in sorted(range(len(rles)), key=lambda index: -areas[index]):
        label_map[_call(annotations[index], coco_mask.decode, rles[index]).astype(bool)] = index + 1
    return label_map


def _call(annotation: dict, function: Callable, *arguments: object) -> object:
    """Call a function; its errors name the annotation."""
    try:
        return function(*arguments)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"annotation {annotation.get('id', '(no id)')}: {error}") from error


def _encode(segmentation: dict | list, height: int, width: int) -> dict:
    """A compressed RLE."""
    if isinstance(segmentation, list):
        return _encode_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict):
        raise ValueError(f"found segmentation {segmentation!r}; expected polygons or an RLE")
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"found an RLE of size {segmentation['size']}; expected the image's [{height}, {width}]")
    counts = segmentation["counts"]
    if isinstance(counts, str | bytes):
        return segmentation
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError(f"found an RLE of {sum(counts)} pixels; expected {height * width}")
    return coco_mask.frPyObjects(segmentation, height, width)


def _encode_polygons(polygons: list[list[float]], height: int, width: int) -> dict:
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError(f"found a polygon of {next(len(p) for p in polygons if len(p) % 2)} numbers; expected x, y pairs")
    # Fewer than three points cover no pixel, and pycocotools would take four numbers for a box.
    drawable = [polygon for polygon in polygons if len(polygon) >= 6]
    if not drawable:
        return coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))
    return coco_mask.merge(coco_mask.frPyObjects(drawable, height, width))
