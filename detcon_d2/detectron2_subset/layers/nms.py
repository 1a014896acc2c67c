"""Non-maximum suppression within groups."""

import torch
from torchvision import ops


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Positions (int64) of the boxes that no higher scoring box of the same group overlaps by more than the threshold, best first.

    ``boxes``: (N, 4) xyxy of any floating type, compared in float32; ``scores``: (N,); ``idxs``: (N,) integers, the groups.
    """
    assert boxes.shape[-1] == 4, f"boxes are of shape (N, 4), found {tuple(boxes.shape)}."
    return ops.batched_nms(boxes.to(torch.float32), scores, idxs, iou_threshold)
