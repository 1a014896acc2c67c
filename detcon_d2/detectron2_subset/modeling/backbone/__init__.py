"""Backbones; public names of ``detectron2.modeling.backbone``."""

from ...missing import missing_name
from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
from .fpn import FPN
from .resnet import BasicStem, BottleneckBlock, ResNet, build_resnet_backbone

__all__ = ["BACKBONE_REGISTRY", "FPN", "Backbone", "BasicStem", "BottleneckBlock", "ResNet", "build_backbone", "build_resnet_backbone"]

__getattr__ = missing_name(__name__)
