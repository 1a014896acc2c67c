"""Layers of the backbones and heads; public names of ``detectron2.layers``."""

from ..missing import missing_name
from .batch_norm import FrozenBatchNorm2d, NaiveSyncBatchNorm, get_norm
from .blocks import CNNBlockBase
from .mask_ops import paste_masks_in_image
from .shape_spec import ShapeSpec
from .wrappers import Conv2d

__all__ = ["CNNBlockBase", "Conv2d", "FrozenBatchNorm2d", "NaiveSyncBatchNorm", "ShapeSpec", "get_norm", "paste_masks_in_image"]

__getattr__ = missing_name(__name__)
