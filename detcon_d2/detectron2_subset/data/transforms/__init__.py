"""Augmentations and the transforms they make; public names of ``detectron2.data.transforms``, several of which are fvcore's."""

from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, Transform, TransformList

from ...missing import missing_name
from .augmentation import AugInput, Augmentation, AugmentationList, RandomFlip

__all__ = ["AugInput", "Augmentation", "AugmentationList", "RandomFlip"]
__all__ += ["CropTransform", "HFlipTransform", "NoOpTransform", "Transform", "TransformList"]

__getattr__ = missing_name(__name__)
