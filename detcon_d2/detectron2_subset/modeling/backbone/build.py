"""The registry of backbones."""

from fvcore.common.registry import Registry

from ...config import CfgNode
from ...layers import ShapeSpec
from .backbone import Backbone

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = "Backbones, each called as ``build(cfg, input_shape: ShapeSpec)``; named by ``MODEL.BACKBONE.NAME``."


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build the backbone ``MODEL.BACKBONE.NAME``. KeyError for an unknown name.

    By default the number of input channels is the length of ``MODEL.PIXEL_MEAN``.
    """
    shape = input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, shape)
    assert isinstance(backbone, Backbone), f"{cfg.MODEL.BACKBONE.NAME} made a {type(backbone).__name__}, not a Backbone."
    return backbone
