"""Boxes, masks, image batches and the container of per-instance fields; public names of ``detectron2.structures``."""

from ..missing import missing_name
from .boxes import Boxes, BoxMode, pairwise_iou
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks, PolygonMasks

__all__ = ["BitMasks", "BoxMode", "Boxes", "ImageList", "Instances", "PolygonMasks", "pairwise_iou"]

__getattr__ = missing_name(__name__)
