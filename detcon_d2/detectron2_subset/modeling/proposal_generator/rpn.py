"""The region proposal network (Ren et al., Faster R-CNN, 2015).

Letters: N images, L feature maps of H x W cells, A anchors per cell, R = sum of H W A anchors per image.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.registry import Registry
from fvcore.nn import smooth_l1_loss
from torch import nn

from ...config import CfgNode, configurable
from ...layers import Conv2d, ShapeSpec
from ...structures import Boxes, ImageList, Instances, pairwise_iou
from ...utils.events import get_event_storage
from ..anchor_generator import build_anchor_generator
from ..box_regression import Box2BoxTransform
from ..matcher import Matcher
from ..sampling import subsample_labels
from .build import PROPOSAL_GENERATOR_REGISTRY
from .proposal_utils import find_top_rpn_proposals

Tensors = list[torch.Tensor]

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")
RPN_HEAD_REGISTRY.__doc__ = "Heads of the RPN, called as ``X(cfg, input_shape: list[ShapeSpec])``; named by ``MODEL.RPN.HEAD_NAME``."


def build_rpn_head(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """Build the head ``MODEL.RPN.HEAD_NAME`` for feature maps of ``input_shape``. KeyError for an unknown name."""
    return RPN_HEAD_REGISTRY.get(cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions with ReLU, then 1x1 convolutions to the objectness and the box offsets of each anchor, shared by all maps."""

    @configurable
    def __init__(self, *, in_channels: int, num_anchors: int, conv_dims: Sequence[int] = (-1,)) -> None:
        """``conv_dims``: output channels of the 3x3 convolutions, -1 = as many as the input. Weights start normal with deviation 0.01.

        A single convolution is called ``conv``, several are called ``conv.conv0``, ``conv.conv1``, ... ValueError for other numbers.
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
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * 4, kernel_size=1)
        for layer in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Read MODEL.RPN. AssertionError if the feature maps have different numbers of channels or of anchors per cell."""
        channels = {shape.channels for shape in input_shape}
        anchors = set(build_anchor_generator(cfg, input_shape).num_anchors)
        assert len(channels) == 1, f"Each level must have the same channels, found {sorted(channels)}."
        assert len(anchors) == 1, f"Each level must have the same number of anchors per cell, found {sorted(anchors)}."
        return {"in_channels": channels.pop(), "num_anchors": anchors.pop(), "conv_dims": cfg.MODEL.RPN.CONV_DIMS}

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
        nms_thresh: float,
        min_box_size: float,
        anchor_boundary_thresh: float,
        loss_weight: dict[str, float],
        smooth_l1_beta: float,
    ) -> None:
        """
        Args:
            in_features: names of the feature maps.
            head, anchor_generator, anchor_matcher, box2box_transform: the parts.
            batch_size_per_image: number of anchors that are sampled for the losses; at most ``positive_fraction`` of them are positive.
            positive_fraction: see ``batch_size_per_image``.
            pre_nms_topk, post_nms_topk: numbers of proposals of each map, and of all maps, each in (training, inference).
            nms_thresh, min_box_size: see :func:`find_top_rpn_proposals`.
            anchor_boundary_thresh: anchors that exceed the image by more pixels are not used in training; negative: all anchors are used.
            loss_weight: factor of each loss, by name.
            smooth_l1_beta: the error at which the box loss changes from quadratic to linear; 0: L1.
        """
        super().__init__()
        self.in_features, self.rpn_head, self.anchor_generator = in_features, head, anchor_generator
        self.anchor_matcher, self.anchor_boundary_thresh = anchor_matcher, anchor_boundary_thresh
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.pre_nms_topk = dict(zip((True, False), pre_nms_topk))
        self.post_nms_topk = dict(zip((True, False), post_nms_topk))
        self.nms_thresh, self.min_box_size, self.loss_weight = nms_thresh, float(min_box_size), loss_weight
        self.box2box_transform, self.smooth_l1_beta = box2box_transform, smooth_l1_beta

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``cfg.MODEL.RPN``. NotImplementedError for another BBOX_REG_LOSS_TYPE than smooth_l1."""
        node = cfg.MODEL.RPN
        if node.BBOX_REG_LOSS_TYPE != "smooth_l1":
            raise NotImplementedError(f"MODEL.RPN.BBOX_REG_LOSS_TYPE {node.BBOX_REG_LOSS_TYPE!r} is not in the subset; install detectron2")
        shapes = [input_shape[name] for name in node.IN_FEATURES]
        parts = {"head": build_rpn_head(cfg, shapes), "anchor_generator": build_anchor_generator(cfg, shapes)}
        parts["anchor_matcher"] = Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=True)
        parts["box2box_transform"] = Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS)
        sampling = {"batch_size_per_image": node.BATCH_SIZE_PER_IMAGE, "positive_fraction": node.POSITIVE_FRACTION}
        sampling["anchor_boundary_thresh"] = node.BOUNDARY_THRESH
        limits = {"nms_thresh": node.NMS_THRESH, "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE}
        limits["pre_nms_topk"] = (node.PRE_NMS_TOPK_TRAIN, node.PRE_NMS_TOPK_TEST)
        limits["post_nms_topk"] = (node.POST_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TEST)
        weights = {"loss_rpn_cls": node.LOSS_WEIGHT, "loss_rpn_loc": node.BBOX_REG_LOSS_WEIGHT * node.LOSS_WEIGHT}
        loss = {"loss_weight": weights, "smooth_l1_beta": node.SMOOTH_L1_BETA}
        return {"in_features": node.IN_FEATURES, **parts, **sampling, **limits, **loss}

    def forward(
        self, images: ImageList, features: dict[str, torch.Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Return the proposals of each image (see :func:`find_top_rpn_proposals`) and the losses, which are empty in inference.

        ``gt_instances``, needed in training: for each image Instances with ``gt_boxes``.
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logit_maps, delta_maps = self.rpn_head(maps)
        logits = [level.permute(0, 2, 3, 1).flatten(1) for level in logit_maps]
        deltas = [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in delta_maps]
        losses = {}
        if self.training:
            assert gt_instances is not None, "The RPN needs gt_instances in training."
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def label_and_sample_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]) -> tuple[Tensors, Tensors]:
        """Return for each image labels (R,) int8 (1 positive, 0 negative, -1 not sampled) and the ground truth box of each anchor (R, 4).

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
        sampled = torch.full_like(labels, -1)
        sampled[positives], sampled[negatives] = 1, 0
        return sampled, gt_boxes.tensor[matches] if len(gt_boxes) else torch.zeros_like(anchors.tensor)

    def losses(
        self, anchors: list[Boxes], pred_objectness_logits: Tensors, gt_labels: Tensors, pred_anchor_deltas: Tensors, gt_boxes: Tensors
    ) -> dict[str, torch.Tensor]:
        """Return binary cross-entropy of sampled anchors and smooth L1 of the offsets of positives.

        Both are sums over N images, divided by N x batch_size_per_image. ``pred_objectness_logits``: L of (N, HWA);
        ``pred_anchor_deltas``: L of (N, HWA, 4); labels and boxes as :meth:`label_and_sample_anchors` returns them. Records the positives
        and negatives per image as ``rpn/num_{pos,neg}_anchors``.
        """
        labels = torch.stack(gt_labels)
        positive, sampled = labels == 1, labels >= 0
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", positive.sum().item() / len(labels))
        storage.put_scalar("rpn/num_neg_anchors", (labels == 0).sum().item() / len(labels))
        logits = torch.cat(pred_objectness_logits, dim=1)[sampled]
        loss_cls = F.binary_cross_entropy_with_logits(logits, labels[sampled].to(torch.float32), reduction="sum")
        images, rows = positive.nonzero(as_tuple=True)
        deltas, matched = torch.cat(pred_anchor_deltas, dim=1)[images, rows], torch.stack(gt_boxes)[images, rows]
        wanted = self.box2box_transform.get_deltas(Boxes.cat(anchors).tensor[rows], matched)
        losses = {"loss_rpn_cls": loss_cls, "loss_rpn_loc": smooth_l1_loss(deltas, wanted, beta=self.smooth_l1_beta, reduction="sum")}
        return {name: self.loss_weight[name] * loss / (self.batch_size_per_image * len(labels)) for name, loss in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self, anchors: list[Boxes], pred_objectness_logits: Tensors, pred_anchor_deltas: Tensors, image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Move the anchors by their offsets, then :func:`find_top_rpn_proposals`. No gradients (the approximate training of the paper)."""
        proposals = [
            self.box2box_transform.apply_deltas(deltas.flatten(0, 1), boxes.tensor.repeat(len(deltas), 1)).unflatten(0, deltas.shape[:2])
            for boxes, deltas in zip(anchors, pred_anchor_deltas)
        ]
        limits = self.nms_thresh, self.pre_nms_topk[self.training], self.post_nms_topk[self.training], self.min_box_size
        return find_top_rpn_proposals(proposals, pred_objectness_logits, image_sizes, *limits, self.training)
