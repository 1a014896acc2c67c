"""Heads that process each box; public names of ``detectron2.modeling.roi_heads``."""

from ...missing import missing_name
from .box_head import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead, build_box_head
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import ROI_MASK_HEAD_REGISTRY, MaskRCNNConvUpsampleHead, build_mask_head
from .roi_heads import ROI_HEADS_REGISTRY, ROIHeads, StandardROIHeads, build_roi_heads

__all__ = ["ROI_BOX_HEAD_REGISTRY", "ROI_HEADS_REGISTRY", "ROI_MASK_HEAD_REGISTRY", "FastRCNNConvFCHead", "FastRCNNOutputLayers"]
__all__ += ["MaskRCNNConvUpsampleHead", "ROIHeads", "StandardROIHeads", "build_box_head", "build_mask_head", "build_roi_heads"]

__getattr__ = missing_name(__name__)
