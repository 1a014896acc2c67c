"""From records to the input of the model: reading images, transforming annotations, making instances. N instances, image H x W."""

import numpy as np
import torch
from fvcore.transforms.transform import Transform
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from ..config import CfgNode
from ..missing import missing_name
from ..structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from ..structures.masks import polygons_to_bitmask
from ..utils.file_io import PathManager
from . import transforms as T

__getattr__ = missing_name(__name__)


class SizeMismatchError(ValueError):
    """The image has another size than its record says."""


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image as an (H, W, C) uint8 array, rotated and mirrored according to its EXIF orientation.

    ``format``: a mode of PIL, or "BGR"; "L" gives (H, W, 1); None keeps the mode of the file. ValueError for an unknown format
    ("YUV-BT.601" is not in the subset).
    """
    with PathManager.open(file_name, "rb") as file:
        image = ImageOps.exif_transpose(Image.open(file))
        array = np.asarray(image if format is None else image.convert({"BGR": "RGB"}.get(format, format)))
    return {"BGR": array[..., ::-1], "L": array[..., None]}.get(format, array)


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """SizeMismatchError if "width" or "height" of the record is not that of ``image`` (H, W, ...); missing ones are filled in."""
    found = {"height": image.shape[0], "width": image.shape[1]}
    expected = {key: dataset_dict.get(key, size) for key, size in found.items()}
    if expected != found:
        raise SizeMismatchError(
            f"Image {dataset_dict.get('file_name', '')} has {found}, its record says {expected}; check the width/height in the annotation."
        )
    dataset_dict.update(found)


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Return resizing and, in training, flipping, as ``cfg.INPUT`` says."""
    source, mode = cfg.INPUT, "TRAIN" if is_train else "TEST"
    style = source.MIN_SIZE_TRAIN_SAMPLING if is_train else "choice"
    augmentations = [T.ResizeShortestEdge(source[f"MIN_SIZE_{mode}"], source[f"MAX_SIZE_{mode}"], style)]
    if is_train and source.RANDOM_FLIP != "none":
        augmentations.append(T.RandomFlip(horizontal=source.RANDOM_FLIP == "horizontal", vertical=source.RANDOM_FLIP == "vertical"))
    return augmentations


def _corners(annotation: dict) -> np.ndarray | list[float]:
    return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)


def transform_instance_annotations(annotation: dict, transforms: Transform, image_size: tuple[int, int]) -> dict:
    """Transform "bbox" and "segmentation" of one annotation, in place, and return it.

    The box becomes XYXY_ABS, clipped to ``image_size`` = (height, width) of the transformed image. Polygons become float64 vectors
    [x0, y0, x1, y1, ...], RLE (dict) becomes a uint8 map (H, W). ValueError for another segmentation.
    """
    box = transforms.apply_box(np.array([_corners(annotation)]))[0].clip(min=0)
    annotation["bbox"] = np.minimum(box, [*image_size[::-1], *image_size[::-1]])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(annotation["segmentation"], transforms, image_size)
    return annotation


def _transform_segmentation(source: list | dict, transforms: Transform, image_size: tuple[int, int]) -> list[np.ndarray] | np.ndarray:
    if isinstance(source, list):
        polygons = [np.asarray(polygon).reshape(-1, 2) for polygon in source]
        return [polygon.reshape(-1) for polygon in transforms.apply_polygons(polygons)]
    if isinstance(source, dict):
        bitmap = transforms.apply_segmentation(coco_mask.decode(source))
        assert bitmap.shape[:2] == tuple(image_size), f"A mask became {bitmap.shape[:2]}, its image {image_size}."
        return bitmap
    raise ValueError(f"Cannot transform a segmentation of type {type(source).__name__}; expected polygons (list) or COCO's RLE (dict).")


def annotations_to_instances(annos: list[dict], image_size: tuple[int, int], mask_format: str = "polygon") -> Instances:
    """Return Instances with "gt_boxes", "gt_classes" (N,) int64 and, if the first annotation has a "segmentation", "gt_masks".

    ``mask_format``: "polygon" gives PolygonMasks; "bitmask" gives BitMasks, also from (H, W) maps. ``image_size``: (height, width).
    ValueError for segmentations that cannot become such masks.
    """
    assert mask_format in ("polygon", "bitmask"), f"mask_format is 'polygon' or 'bitmask', found {mask_format!r}."
    classes = torch.tensor([int(one["category_id"]) for one in annos], dtype=torch.int64)
    instances = Instances(image_size, gt_boxes=Boxes(np.array([_corners(one) for one in annos])), gt_classes=classes)
    if not annos or "segmentation" not in annos[0]:
        return instances
    segmentations = [one["segmentation"] for one in annos]
    if mask_format == "bitmask":
        bitmaps = [polygons_to_bitmask(one, *image_size) if isinstance(one, list) else one for one in segmentations]
        instances.gt_masks = BitMasks(np.stack(bitmaps))
        return instances
    try:
        instances.gt_masks = PolygonMasks(segmentations)
    except ValueError as error:
        raise ValueError("Segmentations that are not polygons cannot become PolygonMasks; set INPUT.MASK_FORMAT to 'bitmask'.") from error
    return instances


def filter_empty_instances(instances: Instances) -> Instances:
    """Return the instances whose box is wider and higher than 1e-5 pixels and whose mask, if there are masks, is not empty."""
    kept = instances.gt_boxes.nonempty(threshold=1e-5)
    if instances.has("gt_masks"):
        kept &= instances.gt_masks.nonempty()
    return instances[kept]
