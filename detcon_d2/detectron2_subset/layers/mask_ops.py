"""Masks predicted in boxes, brought to the image. Letters: N masks of M x M, image H x W."""

import math

import torch
import torch.nn.functional as F

from ..structures.boxes import Boxes


def paste_masks_in_image(
    masks: torch.Tensor, boxes: Boxes | torch.Tensor, image_shape: tuple[int, int], threshold: float = 0.5
) -> torch.Tensor:
    """(N, H, W): each of ``masks`` (N, M, M), soft in [0, 1], resampled bilinearly to its box (N, 4) xyxy in pixels; 0 outside.

    ``image_shape`` = (height, width). A threshold >= 0 gives bool, value >= threshold; a negative one uint8, 255 for 1. A mask pixel
    counts as a square, its value that of the centre, and so does a pixel of the image. AssertionError for masks that are not square.
    """
    assert masks.shape[-1] == masks.shape[-2], f"Only square masks can be pasted, found {tuple(masks.shape)}."
    corners = boxes.tensor if isinstance(boxes, Boxes) else boxes
    assert len(corners) == len(masks), f"One box a mask: {len(corners)} boxes, {len(masks)} masks."
    pasted = masks.new_zeros((len(masks), *image_shape), dtype=torch.bool if threshold >= 0 else torch.uint8)
    for target, mask, box, limits in zip(pasted, masks, corners, corners.tolist()):
        # Farther than a pixel from the box every value is below half of the mask's.
        left, right = _window(limits[0], limits[2], image_shape[1])
        top, bottom = _window(limits[1], limits[3], image_shape[0])
        if right > left and bottom > top:
            soft = _resample(mask, box, torch.arange(top, bottom, device=box.device), torch.arange(left, right, device=box.device))
            target[top:bottom, left:right] = soft >= threshold if threshold >= 0 else soft * 255
    return pasted


def _window(low: float, high: float, side: int) -> tuple[int, int]:
    return max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, side)


def _resample(mask: torch.Tensor, box: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The mask at the centres of the pixels ``rows`` x ``columns``."""
    x = (columns.to(box) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (rows.to(box) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return F.grid_sample(mask[None, None].to(grid.dtype), grid[None], align_corners=False)[0, 0]
