"""Backbones and meta-architectures; public names of ``detectron2.modeling``."""

from ..layers import ShapeSpec
from ..missing import missing_name
from .backbone import BACKBONE_REGISTRY, Backbone, ResNet, build_backbone, build_resnet_backbone
from .meta_arch import META_ARCH_REGISTRY, build_model

__all__ = ["BACKBONE_REGISTRY", "META_ARCH_REGISTRY", "Backbone", "ResNet"]
__all__ += ["ShapeSpec", "build_backbone", "build_model", "build_resnet_backbone"]

__getattr__ = missing_name(__name__)
