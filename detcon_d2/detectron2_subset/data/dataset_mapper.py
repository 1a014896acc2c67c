"""From a record to the input of a detector."""

import copy
import logging
from typing import Any

import numpy as np
import torch

from ..config import CfgNode, configurable
from ..missing import missing_name
from . import detection_utils as utils
from . import transforms as T

__getattr__ = missing_name(__name__)

_logger = logging.getLogger("detectron2.data.dataset_mapper")


class DatasetMapper:
    """Reads the image of a record, augments it together with its annotations, and makes tensors.

    The result has the keys of the record except "annotations", and "image": (C, H, W) uint8. In training, if the record has annotations,
    it has "instances": the instances that are not crowds and are not empty after the augmentation. "height" and "width" are those of the
    file. Keypoints, proposals and semantic segmentation are not in the subset.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation],
        image_format: str,
        use_instance_mask: bool = False,
        instance_mask_format: str = "polygon",
        recompute_boxes: bool = False,
    ) -> None:
        """
        Args:
            is_train: whether annotations are used.
            augmentations: applied one after the other.
            image_format: see :func:`~.detection_utils.read_image`.
            use_instance_mask: keep segmentations, as ``instance_mask_format`` ("polygon" or "bitmask").
            recompute_boxes: take the boxes from the augmented masks (for crops); AssertionError without ``use_instance_mask``.
        """
        assert use_instance_mask or not recompute_boxes, "recompute_boxes needs use_instance_mask."
        self.is_train, self.augmentations, self.image_format = is_train, T.AugmentationList(augmentations), image_format
        self.use_instance_mask, self.instance_mask_format, self.recompute_boxes = use_instance_mask, instance_mask_format, recompute_boxes
        _logger.info("[DatasetMapper] Augmentations used in %s: %s", "training" if is_train else "inference", augmentations)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read INPUT and MODEL. NotImplementedError for MODEL.LOAD_PROPOSALS and MODEL.KEYPOINT_ON."""
        if cfg.MODEL.LOAD_PROPOSALS or cfg.MODEL.KEYPOINT_ON:
            raise NotImplementedError("Precomputed proposals and keypoints are not in the subset; install detectron2")
        augmentations = utils.build_augmentation(cfg, is_train)
        cropped = is_train and cfg.INPUT.CROP.ENABLED
        if cropped:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "recompute_boxes": bool(cropped and cfg.MODEL.MASK_ON),
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """Map one record, which is not changed. FileNotFoundError for a missing image, SizeMismatchError for a size unlike the record's."""
        result = copy.deepcopy(dataset_dict)
        image = utils.read_image(result["file_name"], self.image_format)
        utils.check_image_size(result, image)
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image_size = aug_input.image.shape[:2]
        # Contiguous arrays are needed to share the memory between processes.
        result["image"] = torch.from_numpy(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        annotations = result.pop("annotations", None)
        if self.is_train and annotations is not None:
            result["instances"] = self._instances(annotations, transforms, image_size)
        return result

    def _instances(self, annotations: list[dict], transforms: T.TransformList, image_size: tuple[int, int]) -> utils.Instances:
        unused = {"keypoints"} if self.use_instance_mask else {"keypoints", "segmentation"}
        used = [{key: value for key, value in one.items() if key not in unused} for one in annotations if not one.get("iscrowd", 0)]
        moved = [utils.transform_instance_annotations(one, transforms, image_size) for one in used]
        instances = utils.annotations_to_instances(moved, image_size, mask_format=self.instance_mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)
