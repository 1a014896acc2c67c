"""From scored boxes on feature maps to proposals. Letters: N images, L feature maps, R boxes of a map."""

import math

import torch

from ...layers import batched_nms
from ...structures import Boxes, Instances

# What an RPN would say that is all but certain.
_CERTAIN = 1.0 - 1e-10
_CERTAIN_LOGIT = math.log(_CERTAIN / (1.0 - _CERTAIN))


def find_top_rpn_proposals(
    proposals: list[torch.Tensor],
    pred_objectness_logits: list[torch.Tensor],
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """The best proposals of each image, best first, as Instances with ``proposal_boxes`` and ``objectness_logits``.

    ``proposals`` holds L tensors (N, R, 4) xyxy, ``pred_objectness_logits`` L tensors (N, R), ``image_sizes`` (height, width) of N images.
    The ``pre_nms_topk`` best of each map are clipped to the image; those remain whose sides are both above ``min_box_size`` pixels and that
    no better one of their map overlaps at an IoU above ``nms_thresh``, at most ``post_nms_topk`` of all maps together. Boxes or logits that
    are not finite raise FloatingPointError in training and are dropped otherwise.
    """
    best = [level.topk(min(pre_nms_topk, level.shape[1]), dim=1) for level in pred_objectness_logits]
    boxes = [level.gather(1, top.indices[..., None].expand(-1, -1, 4)) for level, top in zip(proposals, best, strict=True)]
    levels = torch.cat([torch.full_like(top.indices[0], index) for index, top in enumerate(best)])
    found = []
    for size, image_boxes, logits in zip(image_sizes, torch.cat(boxes, dim=1), torch.cat([top.values for top in best], dim=1), strict=True):
        image = _finite(Instances(size, proposal_boxes=Boxes(image_boxes), objectness_logits=logits, level=levels), training)
        image.proposal_boxes.clip(size)
        image = image[image.proposal_boxes.nonempty(threshold=min_box_size)]
        kept = batched_nms(image.proposal_boxes.tensor, image.objectness_logits, image.level, nms_thresh)
        image.remove("level")
        found.append(image[kept[:post_nms_topk]])
    return found


def _finite(proposals: Instances, training: bool) -> Instances:
    finite = torch.isfinite(proposals.proposal_boxes.tensor).all(dim=1) & torch.isfinite(proposals.objectness_logits)
    if finite.all():
        return proposals
    if training:
        raise FloatingPointError("Predicted boxes or scores of the RPN are infinite or NaN: training has diverged.")
    return proposals[finite]


def add_ground_truth_to_proposals(gt: list[Instances] | list[Boxes], proposals: list[Instances]) -> list[Instances]:
    """The proposals of each image with its ground truth boxes behind them, at an objectness logit of 23 (p = 1 - 1e-10).

    ``gt``: Instances with ``gt_boxes``, or Boxes. Other fields of the proposals are filled from fields of the same name in ``gt``, which
    must have them (AssertionError). ValueError for another number of images.
    """
    if len(gt) != len(proposals):
        raise ValueError(f"Proposals and ground truth are of the same images, found {len(proposals)} and {len(gt)}.")
    return [_with_ground_truth(truth, proposal) for truth, proposal in zip(gt, proposals)]


def _with_ground_truth(gt: Instances | Boxes, proposals: Instances) -> Instances:
    boxes, fields = (gt, {}) if isinstance(gt, Boxes) else (gt.gt_boxes, gt.get_fields())
    logits = proposals.objectness_logits.new_full((len(boxes),), _CERTAIN_LOGIT)
    fields = {**fields, "proposal_boxes": boxes, "objectness_logits": logits}
    lacking = proposals.get_fields().keys() - fields.keys()
    assert not lacking, f"The ground truth lacks fields that the proposals have: {sorted(lacking)}."
    return Instances.cat([proposals, Instances(proposals.image_size, **fields)])
