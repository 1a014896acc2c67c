"""A batch of images of different sizes in one tensor."""

import math
from typing import Any

import torch
import torch.nn.functional as F


class ImageList:
    """``tensor``: (N, ..., H, W), images padded at the right and bottom; ``image_sizes``: their true (height, width)."""

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]) -> None:
        """See the class."""
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> torch.Tensor:
        """Image ``idx`` without its padding."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        """The batch on another device or in another dtype."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @staticmethod
    def from_tensors(
        tensors: list[torch.Tensor], size_divisibility: int = 0, pad_value: float = 0.0, padding_constraints: dict[str, int] | None = None
    ) -> "ImageList":
        """Pad images (..., Hi, Wi) of equal leading shape to the largest height and width, and stack them.

        ``padding_constraints``: ``square_size`` > 0 replaces the largest height and width by that number; ``size_divisibility`` overrides
        the argument. Then both are rounded up to a multiple of the divisibility, if that is above 1. AssertionError for no images or
        different leading shapes.
        """
        assert tensors and all(image.shape[:-2] == tensors[0].shape[:-2] for image in tensors), (
            f"from_tensors takes images that differ in height and width only, found shapes {[tuple(image.shape) for image in tensors]}."
        )
        constraints = padding_constraints or {}
        divisor = max(constraints.get("size_divisibility", size_divisibility), 1)
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        square = constraints.get("square_size", 0)
        largest = (square, square) if square > 0 else (max(h for h, _ in sizes), max(w for _, w in sizes))
        height, width = (math.ceil(side / divisor) * divisor for side in largest)
        padded = [F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]), value=pad_value) for image in tensors]
        return ImageList(torch.stack(padded), sizes)
