"""Augmentations and the transforms that they return; public names of ``detectron2.data.transforms``. Several transforms are fvcore's."""

from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, PadTransform, Transform, TransformList

from ...missing import missing_name
from .augmentation import AugInput, Augmentation, AugmentationList
from .augmentation_impl import FixedSizeCrop, RandomCrop, RandomFlip, ResizeScale, ResizeShortestEdge
from .transform import ResizeTransform

__all__ = ["AugInput", "Augmentation", "AugmentationList", "CropTransform", "FixedSizeCrop", "HFlipTransform", "NoOpTransform"]
__all__ += ["PadTransform", "RandomCrop", "RandomFlip", "ResizeScale", "ResizeShortestEdge", "ResizeTransform"]
__all__ += ["Transform", "TransformList"]

__getattr__ = missing_name(__name__)
