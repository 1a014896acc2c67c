"""From scored boxes on feature maps to proposals. Letters: N images, L feature maps, R boxes per map."""

import math

import torch
from torchvision import ops

from ...structures import Boxes, Instances

# The score and the logit of ground truth boxes: an RPN that is almost certain.
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
    """Return the best proposals of each image, best first, as Instances with ``proposal_boxes`` and ``objectness_logits``.

    ``proposals`` are L tensors (N, R, 4) xyxy, ``pred_objectness_logits`` L tensors (N, R), ``image_sizes`` (height, width) of N images.
    The ``pre_nms_topk`` best boxes of each map are clipped to the image. Boxes with a side of at most ``min_box_size`` pixels are removed,
    and boxes that overlap a better box of the same map with an IoU above ``nms_thresh``. Of all maps together at most ``post_nms_topk``
    remain. Boxes or logits that are not finite raise FloatingPointError in training and are removed otherwise.
    """
    best = [level.topk(min(pre_nms_topk, level.shape[1]), dim=1) for level in pred_objectness_logits]
    boxes = [level.gather(1, top.indices[..., None].expand(-1, -1, 4)) for level, top in zip(proposals, best, strict=True)]
    levels = torch.cat([torch.full_like(top.indices[0], index) for index, top in enumerate(best)])
    found = []
    for size, image_boxes, logits in zip(image_sizes, torch.cat(boxes, dim=1), torch.cat([top.values for top in best], dim=1), strict=True):
        image = _finite(Instances(size, proposal_boxes=Boxes(image_boxes), objectness_logits=logits, level=levels), training)
        image.proposal_boxes.clip(size)
        image = image[image.proposal_boxes.nonempty(threshold=min_box_size)]
        kept = ops.batched_nms(image.proposal_boxes.tensor, image.objectness_logits, image.level, nms_thresh)
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


def add_ground_truth_to_proposals(gt: list[Instances], proposals: list[Instances]) -> list[Instances]:
    """Append the ``gt_boxes`` of each image to its proposals, with an objectness logit of 23 (p = 1 - 1e-10)."""
    return [_with_ground_truth(truth.gt_boxes, proposal) for truth, proposal in zip(gt, proposals, strict=True)]


def _with_ground_truth(boxes: Boxes, proposals: Instances) -> Instances:
    logits = proposals.objectness_logits.new_full((len(boxes),), _CERTAIN_LOGIT)
    return Instances.cat([proposals, Instances(proposals.image_size, proposal_boxes=boxes, objectness_logits=logits)])
