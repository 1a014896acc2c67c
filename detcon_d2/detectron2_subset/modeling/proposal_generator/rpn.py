"""The region proposal network (Ren et al., Faster R-CNN, 2015).

Letters: N images, L feature maps of H x W cells, A anchors a cell, R = sum of H W A anchors an image.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...config import CfgNode, configurable
from ...layers import Conv2d, ShapeSpec, nonzero_tuple
from ...structures import Boxes, ImageList, Instances, pairwise_iou
from ...utils.events import get_event_storage
from ...utils.registry import Registry
from ..anchor_generator import build_anchor_generator
from ..box_regression import Box2BoxTransform, box_regression_loss
from ..matcher import Matcher
from ..sampling import subsample_labels
from .build import PROPOSAL_GENERATOR_REGISTRY
from .proposal_utils import find_top_rpn_proposals

Tensors = list[torch.Tensor]

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")
RPN_HEAD_REGISTRY.__doc__ = "Heads of the RPN, called as ``X(cfg, input_shape: list[ShapeSpec])``; named by ``MODEL.RPN.HEAD_NAME``."


def build_rpn_head(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """The head ``MODEL.RPN.HEAD_NAME`` for feature maps of ``input_shape``. KeyError for an unknown name."""
    return RPN_HEAD_REGISTRY.get(cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions with ReLU, then objectness and box offsets of each anchor by 1x1 convolutions, shared by all feature maps."""

    @configurable
    def __init__(self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims: Sequence[int] = (-1,)) -> None:
        """``conv_dims``: output channels of the 3x3 convolutions, -1 = as many as before. Weights are normal with deviation 0.01.

        A single convolution is called ``conv``, several ``conv.conv0``, ``conv.conv1`` ...
        """
        super().__init__()
        channels = in_channels
        convolutions = nn.Sequential()
        for index, dim in enumerate(conv_dims):
            width = channels if dim == -1 else dim
            if width <= 0:
                raise ValueError(f"MODEL.RPN.CONV_DIMS are numbers of channels, or -1 for as many as before; found {list(conv_dims)}.")
            convolutions.add_module(f"conv{index}", Conv2d(channels, width, kernel_size=3, padding=1, activation=nn.ReLU()))
            channels = width
        self.conv = convolutions[0] if len(convolutions) == 1 else convolutions
        self.objectness_logits = nn.Conv2d(channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * box_dim, kernel_size=1)
        for layer in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Arguments for feature maps of equal channels and anchors a cell; AssertionError if they differ."""
        generator = build_anchor_generator(cfg, input_shape)
        channels, anchors = {shape.channels for shape in input_shape}, set(generator.num_anchors)
        assert len(channels) == 1, f"Each level must have the same channels, found {sorted(channels)}."
        assert len(anchors) == 1, f"Each level must have the same number of anchors a cell, found {sorted(anchors)}."
        sizes = {"in_channels": channels.pop(), "num_anchors": anchors.pop(), "box_dim": generator.box_dim}
        return {**sizes, "conv_dims": cfg.MODEL.RPN.CONV_DIMS}

    def forward(self, features: Tensors) -> tuple[Tensors, Tensors]:
        """L maps (N, C, H, W) -> L logits (N, A, H, W) and L offsets (N, 4A, H, W)."""
        hidden = [self.conv(feature) for feature in features]
        return [self.objectness_logits(x) for x in hidden], [self.anchor_deltas(x) for x in hidden]


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Proposals from feature maps and, in training, the losses ``loss_rpn_cls`` and ``loss_rpn_loc``."""

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ) -> None:
        """``batch_size_per_image`` anchors are drawn for the losses, at most ``positive_fraction`` of them positive.

        ``pre_nms_topk`` (each map) and ``post_nms_topk`` (all maps): numbers of proposals in (training, inference).
        ``anchor_boundary_thresh``: anchors that reach farther out of the image (pixels) are not trained on; negative = all are.
        ``loss_weight``: of both losses, or by name. The rest: see :func:`find_top_rpn_proposals` and :func:`box_regression_loss`.
        """
        super().__init__()
        self.in_features, self.rpn_head, self.anchor_generator = in_features, head, anchor_generator
        self.anchor_matcher, self.anchor_boundary_thresh = anchor_matcher, anchor_boundary_thresh
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.pre_nms_topk = dict(zip((True, False), pre_nms_topk))
        self.post_nms_topk = dict(zip((True, False), post_nms_topk))
        self.nms_thresh, self.min_box_size = nms_thresh, float(min_box_size)
        self.box2box_transform, self.box_reg_loss_type, self.smooth_l1_beta = box2box_transform, box_reg_loss_type, smooth_l1_beta
        self.loss_weight = loss_weight if isinstance(loss_weight, dict) else dict.fromkeys(("loss_rpn_cls", "loss_rpn_loc"), loss_weight)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """The arguments that ``cfg.MODEL.RPN`` stands for."""
        node = cfg.MODEL.RPN
        shapes = [input_shape[name] for name in node.IN_FEATURES]
        parts = {"head": build_rpn_head(cfg, shapes), "anchor_generator": build_anchor_generator(cfg, shapes)}
        parts["anchor_matcher"] = Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=True)
        parts["box2box_transform"] = Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS)
        sampling = {"batch_size_per_image": node.BATCH_SIZE_PER_IMAGE, "positive_fraction": node.POSITIVE_FRACTION}
        sampling["anchor_boundary_thresh"] = node.BOUNDARY_THRESH
        limits = {"nms_thresh": node.NMS_THRESH, "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE}
        limits["pre_nms_topk"] = (node.PRE_NMS_TOPK_TRAIN, node.PRE_NMS_TOPK_TEST)
        limits["post_nms_topk"] = (node.POST_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TEST)
        loss = {"box_reg_loss_type": node.BBOX_REG_LOSS_TYPE, "smooth_l1_beta": node.SMOOTH_L1_BETA}
        loss["loss_weight"] = {"loss_rpn_cls": node.LOSS_WEIGHT, "loss_rpn_loc": node.BBOX_REG_LOSS_WEIGHT * node.LOSS_WEIGHT}
        return {"in_features": node.IN_FEATURES, **parts, **sampling, **limits, **loss}

    def forward(
        self, images: ImageList, features: dict[str, torch.Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Proposals of each image (see :func:`find_top_rpn_proposals`) and the losses, none in inference.

        ``gt_instances``, needed in training: one Instances with ``gt_boxes`` an image.
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logit_maps, delta_maps = self.rpn_head(maps)
        logits = [level.permute(0, 2, 3, 1).flatten(1) for level in logit_maps]
        box_dim = self.anchor_generator.box_dim
        deltas = [level.unflatten(1, (-1, box_dim)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in delta_maps]
        losses = {}
        if self.training:
            assert gt_instances is not None, "The RPN needs gt_instances in training."
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def label_and_sample_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]) -> tuple[Tensors, Tensors]:
        """For each image: labels (R,) int8, 1 positive, 0 negative, -1 not drawn, and the ground truth box of each anchor (R, 4).

        The boxes are meaningful for positives only.
        """
        boxes = Boxes.cat(anchors)
        pairs = [self._label_one_image(boxes, instances) for instances in gt_instances]
        return [labels for labels, _ in pairs], [matched for _, matched in pairs]

    def _label_one_image(self, anchors: Boxes, instances: Instances) -> tuple[torch.Tensor, torch.Tensor]:
        gt_boxes = instances.gt_boxes
        matches, labels = self.anchor_matcher(pairwise_iou(gt_boxes, anchors))
        if self.anchor_boundary_thresh >= 0:
            labels[~anchors.inside_box(instances.image_size, self.anchor_boundary_thresh)] = -1
        positives, negatives = subsample_labels(labels, self.batch_size_per_image, self.positive_fraction, 0)
        drawn = torch.full_like(labels, -1)
        drawn[positives], drawn[negatives] = 1, 0
        return drawn, gt_boxes.tensor[matches] if len(gt_boxes) else torch.zeros_like(anchors.tensor)

    def losses(
        self, anchors: list[Boxes], pred_objectness_logits: Tensors, gt_labels: Tensors, pred_anchor_deltas: Tensors, gt_boxes: Tensors
    ) -> dict[str, torch.Tensor]:
        """Binary cross-entropy of drawn anchors and box regression of positives, sums over N images / (N x batch_size_per_image).

        ``pred_objectness_logits``: L of (N, HWA); ``pred_anchor_deltas``: L of (N, HWA, 4); labels and boxes as
        :meth:`label_and_sample_anchors` gives them. Records the positives and negatives an image as ``rpn/num_{pos,neg}_anchors``.
        """
        labels = torch.stack(gt_labels)
        positive, drawn = labels == 1, labels >= 0
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", positive.sum().item() / len(labels))
        storage.put_scalar("rpn/num_neg_anchors", (labels == 0).sum().item() / len(labels))
        logits = torch.cat(pred_objectness_logits, dim=1)[drawn]
        loss_cls = F.binary_cross_entropy_with_logits(logits, labels[drawn].to(torch.float32), reduction="sum")
        images, rows = nonzero_tuple(positive)
        deltas, matched = torch.cat(pred_anchor_deltas, dim=1)[images, rows], torch.stack(gt_boxes)[images, rows]
        pairs = self.box2box_transform, Boxes.cat(anchors).tensor[rows], deltas, matched
        losses = {"loss_rpn_cls": loss_cls, "loss_rpn_loc": box_regression_loss(*pairs, self.box_reg_loss_type, self.smooth_l1_beta)}
        return {name: self.loss_weight.get(name, 1.0) * loss / (self.batch_size_per_image * len(labels)) for name, loss in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self, anchors: list[Boxes], pred_objectness_logits: Tensors, pred_anchor_deltas: Tensors, image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Anchors moved by their offsets, then :func:`find_top_rpn_proposals`; no gradients (the paper's approximate training)."""
        proposals = [
            self.box2box_transform.apply_deltas(deltas.flatten(0, 1), boxes.tensor.repeat(len(deltas), 1)).unflatten(0, deltas.shape[:2])
            for boxes, deltas in zip(anchors, pred_anchor_deltas)
        ]
        limits = self.nms_thresh, self.pre_nms_topk[self.training], self.post_nms_topk[self.training], self.min_box_size
        return find_top_rpn_proposals(proposals, pred_objectness_logits, image_sizes, *limits, self.training)
