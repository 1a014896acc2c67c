"""Boxes as offsets from other boxes. Letters: N boxes, K offsets per box (classes)."""

import math

import torch

# An image has at least 16 pixels; a box need not become larger than 1000 pixels.
_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)


class Box2BoxTransform:
    """The offsets (dx, dy, dw, dh) of R-CNN (Girshick et al., 2014, appendix C), each multiplied by a weight.

    dx = wx (target centre x - source centre x) / source width and dw = ww log(target width / source width); y and h are analogous.
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = _DEFAULT_SCALE_CLAMP) -> None:
        """``weights``: (wx, wy, ww, wh); dw / ww and dh / wh are limited to ``scale_clamp`` when they are applied."""
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """Return (N, 4) offsets from ``src_boxes`` to ``target_boxes``, both (N, 4) xyxy. AssertionError for a source without width."""
        source_centers, source_sides = _centers_and_sides(src_boxes)
        assert (source_sides[:, 0] > 0).all(), "Box2BoxTransform needs source boxes with a positive width."
        centers, sides = _centers_and_sides(target_boxes)
        offsets = torch.cat([(centers - source_centers) / source_sides, torch.log(sides / source_sides)], dim=1)
        return offsets * offsets.new_tensor(self.weights)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Return (N, 4K) float32 boxes: ``boxes`` (N, 4) moved by each of their K offsets in ``deltas`` (N, 4K)."""
        deltas = deltas.to(torch.float32).unflatten(1, (-1, 4))
        offsets = deltas / deltas.new_tensor(self.weights)
        source_centers, source_sides = (value[:, None] for value in _centers_and_sides(boxes.to(deltas.dtype)))
        centers = offsets[..., :2] * source_sides + source_centers
        half_sides = offsets[..., 2:].clamp(max=self.scale_clamp).exp() * source_sides / 2
        return torch.cat([centers - half_sides, centers + half_sides], dim=-1).flatten(1)


def _centers_and_sides(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + 0.5 * sides, sides
