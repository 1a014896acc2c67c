"""From proposals to losses, or to detections. Letters: N images, P proposals per image, K classes."""

import torch
from fvcore.common.registry import Registry
from torch import nn

from ...config import CfgNode, configurable
from ...layers import ShapeSpec
from ...structures import ImageList, Instances, pairwise_iou
from ...utils.events import get_event_storage
from ..matcher import Matcher
from ..poolers import ROIPooler
from ..proposal_generator.proposal_utils import add_ground_truth_to_proposals
from ..sampling import subsample_labels
from .box_head import build_box_head
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import build_mask_head

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")
"""All heads of a model together, called as ``heads(cfg, input_shape)``; named by ``MODEL.ROI_HEADS.NAME``."""

Tensors = dict[str, torch.Tensor]
_LACKING = ("TRAIN_ON_PRED_BOXES", "USE_FED_LOSS", "USE_SIGMOID_CE")


def build_roi_heads(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the heads ``MODEL.ROI_HEADS.NAME`` for feature maps of the given shapes. KeyError for an unknown name."""
    return ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


def _select_foreground(proposals: list[Instances], bg_label: int) -> list[Instances]:
    """Return the proposals of each image whose ``gt_classes`` are neither -1 nor ``bg_label``."""
    return [one[(one.gt_classes != -1) & (one.gt_classes != bg_label)] for one in proposals]


class ROIHeads(nn.Module):
    """Labels and samples proposals for training; subclasses define ``forward(images, features, proposals, targets)``."""

    def __init__(
        self, *, num_classes: int, batch_size_per_image: int, positive_fraction: float, proposal_matcher: Matcher, proposal_append_gt: bool
    ) -> None:
        """
        Args:
            num_classes: K.
            batch_size_per_image: the largest number of proposals that are sampled per image; at most ``positive_fraction`` of it are
                foreground.
            positive_fraction: see ``batch_size_per_image``.
            proposal_matcher: assigns ground truth to proposals.
            proposal_append_gt: also use the ground truth boxes as proposals.
        """
        super().__init__()
        self.num_classes, self.proposal_matcher, self.proposal_append_gt = num_classes, proposal_matcher, proposal_append_gt
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Return the sampled proposals of each image, foreground first, with ``gt_classes`` (K = background) and, if the image has
        objects, every other ``gt_*`` field of the object with the largest overlap. Records ``roi_head/num_fg_samples`` and
        ``num_bg_samples``, means over images."""
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        sampled = [self._label_and_sample(*image) for image in zip(proposals, targets)]
        background = sum((one.gt_classes == self.num_classes).sum().item() for one in sampled)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", (sum(map(len, sampled)) - background) / len(sampled))
        storage.put_scalar("roi_head/num_bg_samples", background / len(sampled))
        return sampled

    def _label_and_sample(self, proposals: Instances, targets: Instances) -> Instances:
        matches, labels = self.proposal_matcher(pairwise_iou(targets.gt_boxes, proposals.proposal_boxes))
        classes = targets.gt_classes[matches] if len(targets) else torch.zeros_like(matches)
        # Labels of the matcher: 1 is foreground, 0 is background, -1 is ignored.
        classes = classes.masked_fill(labels == 0, self.num_classes).masked_fill(labels == -1, -1)
        chosen = torch.cat(subsample_labels(classes, self.batch_size_per_image, self.positive_fraction, self.num_classes))
        sampled = proposals[chosen]
        sampled.gt_classes = classes[chosen]
        for name, value in targets.get_fields().items() if len(targets) else ():
            if name.startswith("gt_") and not sampled.has(name):
                sampled.set(name, value[matches[chosen]])
        return sampled


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """A box head with :class:`FastRCNNOutputLayers`, and optionally a mask head, each with its own pooler."""

    @configurable
    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: list[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        **kwargs: int | float | bool | Matcher,
    ) -> None:
        """``*_in_features``: names of the pooled maps, finest first; None for the masks: no mask head. ``kwargs``: of :class:`ROIHeads`."""
        super().__init__(**kwargs)
        self.box_in_features, self.mask_in_features, self.mask_on = box_in_features, mask_in_features, mask_in_features is not None
        self.box_pooler, self.box_head, self.box_predictor = box_pooler, box_head, box_predictor
        if self.mask_on:
            self.mask_pooler, self.mask_head = mask_pooler, mask_head

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read ``MODEL.ROI_HEADS``, ``ROI_BOX_HEAD``, and, with MASK_ON, ``ROI_MASK_HEAD``.

        NotImplementedError for KEYPOINT_ON, TRAIN_ON_PRED_BOXES, USE_FED_LOSS and USE_SIGMOID_CE.
        """
        box, heads = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS
        lacking = ["KEYPOINT_ON"] * cfg.MODEL.KEYPOINT_ON + [key for key in _LACKING if box[key]]
        if lacking:
            raise NotImplementedError(f"{', '.join(lacking)} = True is not in the subset; install detectron2")
        matcher = Matcher(heads.IOU_THRESHOLDS, heads.IOU_LABELS, allow_low_quality_matches=False)
        arguments = {"batch_size_per_image": heads.BATCH_SIZE_PER_IMAGE, "positive_fraction": heads.POSITIVE_FRACTION}
        arguments |= {"proposal_append_gt": heads.PROPOSAL_APPEND_GT, "num_classes": heads.NUM_CLASSES, "proposal_matcher": matcher}
        box_pooler, shape = _build_pooler(cfg, box, input_shape)
        arguments |= {"box_in_features": heads.IN_FEATURES, "box_pooler": box_pooler, "box_head": build_box_head(cfg, shape)}
        arguments["box_predictor"] = FastRCNNOutputLayers(cfg, arguments["box_head"].output_shape)
        if cfg.MODEL.MASK_ON:
            mask_pooler, shape = _build_pooler(cfg, cfg.MODEL.ROI_MASK_HEAD, input_shape)
            arguments |= {"mask_in_features": heads.IN_FEATURES, "mask_pooler": mask_pooler, "mask_head": build_mask_head(cfg, shape)}
        return arguments

    def forward(
        self, images: ImageList, features: Tensors, proposals: list[Instances], targets: list[Instances] | None = None
    ) -> tuple[list[Instances], Tensors]:
        """Return in training the sampled proposals and the losses, otherwise detections at the size of the network's input and {}.

        ``features``: name -> (N, C, h, w). ``proposals``: with ``proposal_boxes`` and ``objectness_logits``. ``targets`` (training): with
        ``gt_boxes``, ``gt_classes`` and ``gt_masks``. Detections: ``pred_boxes``, ``scores``, ``pred_classes``, and ``pred_masks`` as
        probabilities (Ri, 1, S, S).
        """
        if not self.training:
            return self._forward_mask(features, self._forward_box(features, proposals)), {}
        assert targets is not None, "Training needs targets (the 'instances' of the mapper)."
        proposals = self.label_and_sample_proposals(proposals, targets)
        return proposals, self._forward_box(features, proposals) | self._forward_mask(features, proposals)

    def _forward_box(self, features: Tensors, proposals: list[Instances]) -> Tensors | list[Instances]:
        pooled = self.box_pooler([features[name] for name in self.box_in_features], [one.proposal_boxes for one in proposals])
        predictions = self.box_predictor(self.box_head(pooled))
        if self.training:
            return self.box_predictor.losses(predictions, proposals)
        return self.box_predictor.inference(predictions, proposals)[0]

    def _forward_mask(self, features: Tensors, instances: list[Instances]) -> Tensors | list[Instances]:
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances = _select_foreground(instances, self.num_classes)
        boxes = [one.proposal_boxes if self.training else one.pred_boxes for one in instances]
        return self.mask_head(self.mask_pooler([features[name] for name in self.mask_in_features], boxes), instances)


def _build_pooler(cfg: CfgNode, options: CfgNode, input_shape: dict[str, ShapeSpec]) -> tuple[ROIPooler, ShapeSpec]:
    """Build the pooler of POOLER_* in a head's ``options`` on ``MODEL.ROI_HEADS.IN_FEATURES``; return it and the shape of its result."""
    shapes, side = [input_shape[name] for name in cfg.MODEL.ROI_HEADS.IN_FEATURES], options.POOLER_RESOLUTION
    pooler = ROIPooler(side, [1.0 / shape.stride for shape in shapes], options.POOLER_SAMPLING_RATIO, options.POOLER_TYPE)
    return pooler, ShapeSpec(channels=shapes[0].channels, height=side, width=side)
