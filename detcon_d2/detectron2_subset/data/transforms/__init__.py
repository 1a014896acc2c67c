"""Augmentations and the transforms they make; public names of ``detectron2.data.transforms``, several of which are fvcore's."""

from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, PadTransform, Transform, TransformList

from ...missing import missing_name
from .augmentation import AugInput, Augmentation, AugmentationList
from .augmentation_impl import FixedSizeCrop, RandomCrop, RandomFlip, Resize, ResizeScale, ResizeShortestEdge
from .transform import ResizeTransform

__all__ = ["AugInput", "Augmentation", "AugmentationList", "CropTransform", "FixedSizeCrop", "HFlipTransform", "NoOpTransform"]
__all__ += ["PadTransform", "RandomCrop", "RandomFlip", "Resize", "ResizeScale", "ResizeShortestEdge", "ResizeTransform"]
__all__ += ["Transform", "TransformList"]

__getattr__ = missing_name(__name__)
