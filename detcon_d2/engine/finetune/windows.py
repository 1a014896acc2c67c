"""Semantic segmentation of whole images: the logits of overlapping windows are averaged and brought to the size of the image."""

from collections.abc import Callable

import torch
from torch import nn


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of windows along an axis: multiples of ``stride``; the last window ends with the axis and overlaps more."""
    steps = -(-max(length - window, 0) // stride)
    return [min(index * stride, max(length - window, 0)) for index in range(steps + 1)]


def average_windows(image: torch.Tensor, classify: Callable[[torch.Tensor], torch.Tensor], window: int, stride: int) -> torch.Tensor:
    """The logits (1, K, H, W) of ``image`` (1, C, H, W), in each pixel the mean over the windows that hold it.

    Args:
        image: one image.
        classify: (1, C, h, w) -> logits (1, K, h, w).
        window: side of the windows; smaller images have one window.
        stride: between windows, at most ``window``.
    """
    height, width = image.shape[-2:]
    total, count = 0, image.new_zeros(1, 1, height, width)
    for top in window_starts(height, window, stride):
        for left in window_starts(width, window, stride):
            place = (..., slice(top, top + window), slice(left, left + window))
            logits = classify(image[place])
            if isinstance(total, int):
                total = logits.new_zeros(1, logits.shape[1], height, width)
            total[place] += logits
            count[place] += 1
    return total / count


class WindowedSegmentor(nn.Module):
    """A ``SemanticSegmentor`` with an ``FCNHead``, for evaluation. Logits are enlarged by the head's interpolation, as in training."""

    def __init__(self, model: nn.Module, window: int, stride: int):
        """``window`` and ``stride``: DETCON.SEM_SEG.WINDOW and WINDOW_STRIDE; ``window`` 0: the whole image."""
        super().__init__()
        self.model, self._window, self._stride = model, window, stride
        self.train(model.training)  # Detectron2 restores this mode after an evaluation

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, torch.Tensor]]:
        """Of each input, a dict with ``image`` (C, h, w) and its original ``height`` and ``width``: ``sem_seg``, logits of that size."""
        return [{"sem_seg": self._segment(one["image"], (one["height"], one["width"]))} for one in batched_inputs]

    def _segment(self, image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        model = self.model
        image = ((image.to(model.pixel_mean.device) - model.pixel_mean) / model.pixel_std)[None]
        window = self._window or max(image.shape[-2:])
        return model.sem_seg_head.enlarge(average_windows(image, self._logits, window, self._stride or window), size)[0]

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        logits, _ = self.model.sem_seg_head(self.model.backbone(image))
        return self.model.sem_seg_head.enlarge(logits.float(), tuple(image.shape[-2:]))
