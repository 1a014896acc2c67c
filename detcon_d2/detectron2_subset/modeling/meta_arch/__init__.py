"""Whole models; public names of ``detectron2.modeling.meta_arch``."""

from ...missing import missing_name
from .build import META_ARCH_REGISTRY, build_model
from .rcnn import GeneralizedRCNN

__all__ = ["META_ARCH_REGISTRY", "GeneralizedRCNN", "build_model"]

__getattr__ = missing_name(__name__)
