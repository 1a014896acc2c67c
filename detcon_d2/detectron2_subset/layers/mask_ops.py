"""Masks that were predicted in boxes, pasted into the image. Letters: N masks of M x M, image H x W."""

import math

import torch
import torch.nn.functional as F


def paste_masks_in_image(masks: torch.Tensor, boxes: torch.Tensor, image_shape: tuple[int, int]) -> torch.Tensor:
    """Return (N, H, W) bool: each of ``masks`` (N, M, M) in [0, 1], resampled bilinearly to its box (N, 4) xyxy in pixels, is >= 0.5.

    ``image_shape`` = (height, width). Outside the box the result is False. A pixel of the mask, and of the image, is a square that has
    its value at the centre. AssertionError for masks that are not square.
    """
    assert masks.shape[-1] == masks.shape[-2], f"Only square masks can be pasted, found {tuple(masks.shape)}."
    assert len(boxes) == len(masks), f"There must be one box per mask, found {len(boxes)} boxes, {len(masks)} masks."
    pasted = masks.new_zeros((len(masks), *image_shape), dtype=torch.bool)
    for target, mask, box, limits in zip(pasted, masks, boxes, boxes.tolist()):
        # More than a pixel away from the box, every value is below half of the value of the mask.
        left, right = _window(limits[0], limits[2], image_shape[1])
        top, bottom = _window(limits[1], limits[3], image_shape[0])
        if right > left and bottom > top:
            soft = _resample(mask, box, torch.arange(top, bottom, device=box.device), torch.arange(left, right, device=box.device))
            target[top:bottom, left:right] = soft >= 0.5
    return pasted


def _window(low: float, high: float, side: int) -> tuple[int, int]:
    return max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, side)


def _resample(mask: torch.Tensor, box: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return the values of the mask at the centres of the pixels ``rows`` x ``columns``."""
    x = (columns.to(box) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (rows.to(box) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return F.grid_sample(mask[None, None].to(grid.dtype), grid[None], align_corners=False)[0, 0]
