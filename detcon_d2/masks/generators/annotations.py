"""COCO annotations to a label map: polygons and RLE, compressed or not, crowds included."""

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from detcon_d2.io.annotated.kinds import FORMS
from detcon_d2.io.segmentations import box_polygon, encode_segmentation, read_segmentation
from detcon_d2.masks.generators.base import RegionGenerator, parameter, to_label_map


@dataclass(frozen=True, kw_only=True)
class AnnotationRegions(RegionGenerator):
    """Annotated instances, and everything else as one background region: see :func:`annotation_label_map`."""

    name = "annotations"
    needs_annotations = True
    of_whole_image = True
    boxes: bool = parameter(False, "regions of the boxes of objects that have no mask")

    def params(self) -> dict:
        # Folders of label maps that were made before the parameter existed stay valid.
        return super().params() if self.boxes else {}

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        if record is None or "annotations" not in record:
            raise ValueError(f"annotations: found a record without annotations; expected one of an annotated data set: {FORMS}")
        found, expected = tuple(image.shape[:2]), (record.get("height", image.shape[0]), record.get("width", image.shape[1]))
        if found != expected:
            raise ValueError(
                f"annotations are for {expected[0]}x{expected[1]} (height x width), found an image of {found[0]}x{found[1]} after its EXIF "
                "orientation; expected the same size: annotate the image as displayed, or remove the orientation tag"
            )
        annotations = record["annotations"]
        if self.boxes:
            annotations = [one if one.get("segmentation") else one | {"segmentation": box_polygon(one["bbox"])} for one in annotations]
        return to_label_map(annotation_label_map(annotations, *found))


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
