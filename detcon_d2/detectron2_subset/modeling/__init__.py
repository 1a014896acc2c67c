"""Backbones and meta-architectures; public names of ``detectron2.modeling``."""

from ..layers import ShapeSpec
from ..missing import missing_name
from .anchor_generator import ANCHOR_GENERATOR_REGISTRY, build_anchor_generator
from .backbone import BACKBONE_REGISTRY, FPN, Backbone, ResNet, build_backbone, build_resnet_backbone
from .meta_arch import META_ARCH_REGISTRY, GeneralizedRCNN, build_model
from .postprocessing import detector_postprocess
from .proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN_HEAD_REGISTRY, build_proposal_generator, build_rpn_head
from .roi_heads.box_head import ROI_BOX_HEAD_REGISTRY, build_box_head
from .roi_heads.fast_rcnn import FastRCNNOutputLayers
from .roi_heads.mask_head import ROI_MASK_HEAD_REGISTRY, build_mask_head
from .roi_heads.roi_heads import ROI_HEADS_REGISTRY, ROIHeads, StandardROIHeads, build_roi_heads

__all__ = ["ANCHOR_GENERATOR_REGISTRY", "BACKBONE_REGISTRY", "FPN", "META_ARCH_REGISTRY", "PROPOSAL_GENERATOR_REGISTRY"]
__all__ += ["ROI_BOX_HEAD_REGISTRY", "ROI_HEADS_REGISTRY", "ROI_MASK_HEAD_REGISTRY", "RPN_HEAD_REGISTRY", "Backbone"]
__all__ += ["FastRCNNOutputLayers", "GeneralizedRCNN", "ROIHeads", "ResNet", "ShapeSpec", "StandardROIHeads", "build_anchor_generator"]
__all__ += ["build_backbone", "build_box_head", "build_mask_head", "build_model", "build_proposal_generator", "build_resnet_backbone"]
__all__ += ["build_roi_heads", "build_rpn_head", "detector_postprocess"]

__getattr__ = missing_name(__name__)
