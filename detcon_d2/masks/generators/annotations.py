"""COCO annotations to a label map: polygons and RLE, compressed or not, crowds included."""

import numpy as np
from pycocotools import mask as coco_mask

from detcon_d2.io.segmentations import encode_segmentation, read_segmentation


def annotation_label_map(annotations: list[dict], height: int, width: int) -> np.ndarray:
    """Id 0 is the background (and may be absent), instance k of the list has id k + 1; where instances overlap the smaller is on top.

    Areas are in pixels of the rasterised mask; of two equal ones the later is on top. A crowd is one instance. An instance that is covered
    completely, or has no pixel, has no id in the map.

    Args:
        annotations: COCO annotation dicts with "segmentation"; polygons in pixels of the image as displayed.

    Returns:
        int64 (height, width).

    Raises:
        ValueError: no or a malformed segmentation, or an RLE of another size; names the annotation.
    """
    # Decoded one at a time: hundreds of decoded masks of a large photograph would fill the memory.
    rles = [_encode(annotation, height, width) for annotation in annotations]
    areas = [int(coco_mask.area(rle)) for rle in rles]
    label_map = np.zeros((height, width), np.int64)
    for index in sorted(range(len(rles)), key=lambda index: -areas[index]):
        label_map[coco_mask.decode(rles[index]).astype(bool)] = index + 1
    return label_map


def _encode(annotation: dict, height: int, width: int) -> dict:
    """A compressed RLE; errors name the annotation."""
    try:
        return encode_segmentation(read_segmentation(annotation.get("segmentation"), height, width), height, width)
    except ValueError as error:
        raise ValueError(f"annotation {annotation.get('id', '(no id)')}: {error}") from error
