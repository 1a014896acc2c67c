"""Layers of the backbones and heads; public names of ``detectron2.layers``."""

from ..missing import missing_name
from .batch_norm import FrozenBatchNorm2d, NaiveSyncBatchNorm, get_norm
from .blocks import CNNBlockBase
from .shape_spec import ShapeSpec
from .wrappers import Conv2d, cat

__all__ = ["CNNBlockBase", "Conv2d", "FrozenBatchNorm2d", "NaiveSyncBatchNorm", "ShapeSpec", "cat", "get_norm"]

__getattr__ = missing_name(__name__)
