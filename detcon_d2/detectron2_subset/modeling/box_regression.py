"""Boxes as offsets from other boxes, and losses on them. Letters: N boxes, K offsets for each (classes)."""

import math

import torch
from fvcore.nn import smooth_l1_loss
from torchvision import ops

# An image of at least 16 pixels need not grow beyond 1000.
_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)
_OVERLAP_LOSSES = {"giou": ops.generalized_box_iou_loss, "diou": ops.distance_box_iou_loss, "ciou": ops.complete_box_iou_loss}


class Box2BoxTransform:
    """The offsets (dx, dy, dw, dh) of R-CNN (Girshick et al., 2014, appendix C), each times a weight.

    dx = wx (target centre x - source centre x) / source width and dw = ww log(target width / source width); y and h alike.
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = _DEFAULT_SCALE_CLAMP) -> None:
        """``weights`` (wx, wy, ww, wh); dw / ww and dh / wh above ``scale_clamp`` are cut when applied."""
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """(N, 4) offsets that take ``src_boxes`` to ``target_boxes``, both (N, 4) xyxy. AssertionError for a source without width."""
        source_centers, source_sides = _centers_and_sides(src_boxes)
        assert (source_sides[:, 0] > 0).all(), "Box2BoxTransform needs source boxes with a positive width."
        centers, sides = _centers_and_sides(target_boxes)
        offsets = torch.cat([(centers - source_centers) / source_sides, torch.log(sides / source_sides)], dim=1)
        return offsets * offsets.new_tensor(self.weights)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """(N, 4K) float32 boxes: ``boxes`` (N, 4) moved by each of their K offsets in ``deltas`` (N, 4K)."""
        deltas = deltas.to(torch.float32).unflatten(1, (-1, 4))
        offsets = deltas / deltas.new_tensor(self.weights)
        source_centers, source_sides = (value[:, None] for value in _centers_and_sides(boxes.to(deltas.dtype)))
        centers = offsets[..., :2] * source_sides + source_centers
        half_sides = offsets[..., 2:].clamp(max=self.scale_clamp).exp() * source_sides / 2
        return torch.cat([centers - half_sides, centers + half_sides], dim=-1).flatten(1)


def box_regression_loss(
    transform: Box2BoxTransform, boxes: torch.Tensor, deltas: torch.Tensor, gt_boxes: torch.Tensor, loss_type: str, beta: float
) -> torch.Tensor:
    """Sum over N foreground boxes of how far predicted offsets are from the ground truth, a scalar.

    ``boxes`` (N, 4), predicted ``deltas`` (N, 4) and ``gt_boxes`` (N, 4) belong together. "smooth_l1" compares offsets; ``beta`` is where
    it turns from quadratic to linear (0: L1). "giou", "diou" and "ciou" compare the boxes they give. ValueError for another ``loss_type``.
    """
    if loss_type == "smooth_l1":
        return smooth_l1_loss(deltas, transform.get_deltas(boxes, gt_boxes), beta=beta, reduction="sum")
    if loss_type not in _OVERLAP_LOSSES:
        raise ValueError(f"Box regression loss {loss_type!r} is not known; expected smooth_l1, giou, diou or ciou.")
    return _OVERLAP_LOSSES[loss_type](transform.apply_deltas(deltas, boxes), gt_boxes, reduction="sum")


def _centers_and_sides(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + 0.5 * sides, sides
