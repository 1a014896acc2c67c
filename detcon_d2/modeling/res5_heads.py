"""RoI heads of the C4 transfer protocol of MoCo (He et al. 2020): Detectron2's, with one more norm after res5."""

from torch import nn

from detcon_d2 import d2


def build_res5_norm_roi_heads(cfg: "d2.CfgNode", input_shape: "dict[str, d2.ShapeSpec]") -> nn.Module:
    """Detectron2's ``Res5ROIHeads`` with ``res5.norm``, a MODEL.RESNETS.NORM of all channels, between res5 and the predictors.

    A trained norm between pretrained and newly initialised layers gives features the scale that the latter expect.

    Raises AttributeError on the subset, which has no ``Res5ROIHeads``.
    """
    heads = d2.Res5ROIHeads(cfg, input_shape)
    heads.res5.add_module("norm", d2.get_norm(cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS * 8))
    return heads


d2.ROI_HEADS_REGISTRY.register(build_res5_norm_roi_heads)
