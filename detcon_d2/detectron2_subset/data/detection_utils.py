"""From records to what the model takes: reading images, transforming annotations, instances. Letters: N instances, image H x W."""

import numpy as np
import torch
from fvcore.transforms.transform import Transform, TransformList
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


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """An (H, W, C) uint8 array in ``format``: a mode of PIL, or "BGR"; "L" is (H, W, 1); None keeps what the image is.

    ValueError for an unknown format ("YUV-BT.601" is not in the subset).
    """
    array = np.asarray(image if format is None else image.convert({"BGR": "RGB"}.get(format, format)))
    return {"BGR": array[..., ::-1], "L": array[..., None]}.get(format, array)


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image, turned and mirrored as its EXIF orientation says, as :func:`convert_PIL_to_numpy` gives it."""
    with PathManager.open(file_name, "rb") as file:
        return convert_PIL_to_numpy(ImageOps.exif_transpose(Image.open(file)), format)


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """SizeMismatchError if ``image`` (H, W, ...) contradicts "width" and "height" of the record; fills them in where they are missing."""
    found = {"height": image.shape[0], "width": image.shape[1]}
    expected = {key: dataset_dict.get(key, size) for key, size in found.items()}
    if expected != found:
        raise SizeMismatchError(
            f"Image {dataset_dict.get('file_name', '')} has {found}, its record says {expected}; check the width/height in the annotation."
        )
    dataset_dict.update(found)


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Resizing and, in training, flipping, as ``cfg.INPUT`` says."""
    source, mode = cfg.INPUT, "TRAIN" if is_train else "TEST"
    style = source.MIN_SIZE_TRAIN_SAMPLING if is_train else "choice"
    augmentations = [T.ResizeShortestEdge(source[f"MIN_SIZE_{mode}"], source[f"MAX_SIZE_{mode}"], style)]
    if is_train and source.RANDOM_FLIP != "none":
        augmentations.append(T.RandomFlip(horizontal=source.RANDOM_FLIP == "horizontal", vertical=source.RANDOM_FLIP == "vertical"))
    return augmentations


def get_bbox(annotation: dict) -> np.ndarray | list[float]:
    """The box of an annotation as XYXY_ABS."""
    return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)


def transform_instance_annotations(
    annotation: dict, transforms: TransformList | Transform | list[Transform], image_size: tuple[int, int]
) -> dict:
    """Transform "bbox" and "segmentation" of one annotation, in place, and return it.

    The box becomes XYXY_ABS, clipped to ``image_size`` = (height, width) of the transformed image; polygons become float64 vectors
    [x0, y0, x1, y1, ...], run lengths (dict) a uint8 map (H, W). ValueError for another segmentation; NotImplementedError for keypoints.
    """
    if "keypoints" in annotation:
        raise NotImplementedError("Keypoints are not in the subset; install detectron2")
    if isinstance(transforms, list | tuple):
        transforms = TransformList(list(transforms))
    box = transforms.apply_box(np.array([get_bbox(annotation)]))[0].clip(min=0)
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
    """Instances with "gt_boxes", "gt_classes" (N,) int64 and, where the first annotation has a "segmentation", "gt_masks".

    ``mask_format``: "polygon" gives PolygonMasks, "bitmask" BitMasks (also from run lengths and (H, W) maps). ``image_size``: (height,
    width). ValueError for segmentations that do not become such masks.
    """
    assert mask_format in ("polygon", "bitmask"), f"mask_format is 'polygon' or 'bitmask', found {mask_format!r}."
    classes = torch.tensor([int(one["category_id"]) for one in annos], dtype=torch.int64)
    instances = Instances(image_size, gt_boxes=Boxes(np.array([get_bbox(one) for one in annos])), gt_classes=classes)
    if not annos or "segmentation" not in annos[0]:
        return instances
    segmentations = [one["segmentation"] for one in annos]
    if mask_format == "bitmask":
        instances.gt_masks = BitMasks(np.stack([_bitmap(one, image_size) for one in segmentations]))
        return instances
    try:
        instances.gt_masks = PolygonMasks(segmentations)
    except ValueError as error:
        raise ValueError("Segmentations that are not polygons cannot become PolygonMasks; set INPUT.MASK_FORMAT to 'bitmask'.") from error
    return instances


def _bitmap(source: list | dict | np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    if isinstance(source, list):
        return polygons_to_bitmask(source, *image_size)
    if isinstance(source, dict):
        return coco_mask.decode(source)
    if not isinstance(source, np.ndarray):
        raise ValueError(f"Cannot make a mask of a {type(source).__name__}; expected polygons (list), COCO's RLE (dict) or an array.")
    assert source.ndim == 2, f"A mask is (H, W), found {source.shape}."
    return source


def filter_empty_instances(
    instances: Instances, by_box: bool = True, by_mask: bool = True, box_threshold: float = 1e-5, return_mask: bool = False
) -> Instances | tuple[Instances, torch.Tensor]:
    """The instances whose box is wider and higher than ``box_threshold`` and whose mask, if any, is not empty.

    ``return_mask``: with the (N,) bool selection. AssertionError if neither is asked for.
    """
    assert by_box or by_mask, "filter_empty_instances filters by box, by mask or by both."
    kept = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        kept &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        kept &= instances.gt_masks.nonempty()
    return (instances[kept], kept) if return_mask else instances[kept]
