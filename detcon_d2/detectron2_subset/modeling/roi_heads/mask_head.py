"""From the pooled features of a box to a mask (He et al., arXiv 1703.06870). Letters: R boxes, K classes, S side of a mask."""

import torch
from fvcore.common.registry import Registry
from fvcore.nn import weight_init
from torch import nn

from ...config import CfgNode, configurable
from ...layers import Conv2d, ShapeSpec
from ...structures import Instances
from ...utils.events import get_event_storage
from .box_head import conv_norm_relu
from .fast_rcnn import select_class

ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")
"""Mask heads, called as ``head(cfg, input_shape)``; named by ``MODEL.ROI_MASK_HEAD.NAME``."""


def mask_rcnn_loss(pred_mask_logits: torch.Tensor, instances: list[Instances]) -> torch.Tensor:
    """Return the mean binary cross entropy of the logits of each box's class, and record ``mask_rcnn/*`` scalars.

    ``pred_mask_logits``: (R, K or 1, S, S). ``instances``: the foreground boxes of each image, R in total, with ``gt_classes``,
    ``gt_masks`` and ``proposal_boxes``. For R = 0 the loss and its gradients are 0.
    """
    instances = [one for one in instances if len(one)]
    if not instances:
        return pred_mask_logits.sum() * 0
    targets = torch.cat([one.gt_masks.crop_and_resize(one.proposal_boxes.tensor, pred_mask_logits.shape[-1]) for one in instances])
    targets = targets.to(pred_mask_logits.device)
    logits = select_class(pred_mask_logits, torch.cat([one.gt_classes for one in instances]))
    _log_pixels((logits > 0) != targets, targets)
    return nn.functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def mask_rcnn_inference(pred_mask_logits: torch.Tensor, pred_instances: list[Instances]) -> None:
    """Set ``pred_masks``, (Ri, 1, S, S) probabilities, on the instances of each image i, from logits (R, K or 1, S, S)."""
    masks = select_class(pred_mask_logits, torch.cat([one.pred_classes for one in pred_instances])).sigmoid()[:, None]
    for one, own in zip(pred_instances, masks.split([len(one) for one in pred_instances])):
        one.pred_masks = own


def _log_pixels(wrong: torch.Tensor, targets: torch.Tensor) -> None:
    """Record the accuracy of all pixels, and the fractions of wrong background (false_positive) and object pixels (false_negative)."""
    positives, errors, missed = targets.sum().item(), wrong.sum().item(), (wrong & targets).sum().item()
    storage, count = get_event_storage(), targets.numel()
    storage.put_scalar("mask_rcnn/accuracy", 1 - errors / count)
    storage.put_scalar("mask_rcnn/false_positive", (errors - missed) / max(count - positives, 1))
    storage.put_scalar("mask_rcnn/false_negative", missed / max(positives, 1))


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(nn.Sequential):
    """3x3 convolutions (``mask_fcn1``, ...), each with norm and ReLU, a transposed convolution that doubles the side (``deconv``), and a
    1x1 convolution to one logit per class (``predictor``)."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_classes: int, conv_dims: list[int], conv_norm: str | type[nn.Module] = "") -> None:
        """``conv_dims``: output channels of the convolutions and, last, of the transposed one. AssertionError if it is empty.

        ``num_classes``: 1 for a class-agnostic head. ``conv_norm``: see :func:`layers.get_norm`.
        """
        super().__init__()
        assert conv_dims, "The mask head has no layers: conv_dims is empty."
        *widths, last = channels = [input_shape.channels, *conv_dims]
        for number, width in enumerate(widths[1:], 1):
            self.add_module(f"mask_fcn{number}", conv_norm_relu(channels[number - 1], width, conv_norm))
        self.deconv, self.deconv_relu = nn.ConvTranspose2d(widths[-1], last, 2, stride=2), nn.ReLU()
        self.predictor = Conv2d(last, num_classes, 1)
        weight_init.c2_msra_fill(self.deconv)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Read NUM_CONV, CONV_DIM, NORM and CLS_AGNOSTIC_MASK of ``MODEL.ROI_MASK_HEAD``, and ``MODEL.ROI_HEADS.NUM_CLASSES``."""
        options = cfg.MODEL.ROI_MASK_HEAD
        classes, dims = 1 if options.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES, [options.CONV_DIM] * (options.NUM_CONV + 1)
        return {"input_shape": input_shape, "num_classes": classes, "conv_dims": dims, "conv_norm": options.NORM}

    def forward(self, x: torch.Tensor, instances: list[Instances]) -> dict[str, torch.Tensor] | list[Instances]:
        """Features (R, C, s, s) -> logits (R, K or 1, 2 s, 2 s) -> in training ``{"loss_mask": scalar}`` of foreground boxes, otherwise
        the instances with ``pred_masks``; see :func:`mask_rcnn_loss` and :func:`mask_rcnn_inference`."""
        logits = super().forward(x)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(logits, instances)}
        mask_rcnn_inference(logits, instances)
        return instances


def build_mask_head(cfg: CfgNode, input_shape: ShapeSpec) -> nn.Module:
    """Build the mask head ``MODEL.ROI_MASK_HEAD.NAME``. KeyError for an unknown name."""
    return ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, input_shape)
