"""COCO annotations to a label map: polygons and RLE, compressed or not, crowds included."""

import numpy as np
from pycocotools import mask as coco_mask


def annotation_label_map(annotations: list[dict], height: int, width: int) -> np.ndarray:
    """Id 0 is the background (and may be absent), instance k of the list has id k + 1; where instances overlap the smaller is on top.

    "Smaller" is by pixels of the rasterised mask; of two of equal area the later is on top. A crowd is one instance. An instance that is
    covered completely, or without any pixel, has no id in the map.

    Args:
        annotations: COCO annotation dicts with "segmentation"; polygons in pixels of the image as displayed.

    Returns:
        int64 (height, width).

    Raises:
        ValueError: no or a malformed segmentation, or an RLE of another size; names the annotation.
    """
    masks = [_decode(annotation, height, width) for annotation in annotations]
    label_map = np.zeros((height, width), np.int64)
    for index in sorted(range(len(masks)), key=lambda index: -int(masks[index].sum())):
        label_map[masks[index]] = index + 1
    return label_map


def _decode(annotation: dict, height: int, width: int) -> np.ndarray:
    """bool (height, width)."""
    segmentation = annotation.get("segmentation")
    try:
        if isinstance(segmentation, dict):
            return _decode_rle(segmentation, height, width)
        if isinstance(segmentation, list):
            return _decode_polygons(segmentation, height, width)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"annotation {annotation.get('id', '(no id)')}: {error}") from error
    raise ValueError(f"annotation {annotation.get('id', '(no id)')}: found segmentation {segmentation!r}; expected polygons or an RLE")


def _decode_rle(segmentation: dict, height: int, width: int) -> np.ndarray:
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"found an RLE of size {segmentation['size']}; expected the image's [{height}, {width}]")
    counts = segmentation["counts"]
    if not isinstance(counts, list):
        return coco_mask.decode(segmentation).astype(bool)
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError(f"found an RLE of {sum(counts)} pixels; expected {height * width}")
    return coco_mask.decode(coco_mask.frPyObjects(segmentation, height, width)).astype(bool)


def _decode_polygons(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError(f"found a polygon of {next(len(p) for p in polygons if len(p) % 2)} numbers; expected x, y pairs")
    # Fewer than three points cover no pixel, and pycocotools would take four numbers for a box.
    drawable = [polygon for polygon in polygons if len(polygon) >= 6]
    if not drawable:
        return np.zeros((height, width), bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(drawable, height, width))).astype(bool)
