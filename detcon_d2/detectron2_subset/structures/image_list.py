"""A batch of images of different sizes in one tensor."""

import math

import torch
import torch.nn.functional as F


class ImageList:
    """``tensor``: (N, C, H, W), images padded at the right and bottom; ``image_sizes``: (height, width) of each image without padding."""

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]) -> None:
        """See the class."""
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    @staticmethod
    def from_tensors(tensors: list[torch.Tensor], size_divisibility: int = 0) -> "ImageList":
        """Pad images (C, Hi, Wi) with zeros to the largest height and width, rounded up to a multiple of ``size_divisibility`` if that is
        above 1, and stack them. AssertionError for no images or different numbers of channels.
        """
        assert tensors and all(image.shape[:-2] == tensors[0].shape[:-2] for image in tensors), (
            f"from_tensors takes images that differ in height and width only, found shapes {[tuple(image.shape) for image in tensors]}."
        )
        divisor = max(size_divisibility, 1)
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        height, width = (math.ceil(max(sides) / divisor) * divisor for sides in zip(*sizes))
        padded = [F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in tensors]
        return ImageList(torch.stack(padded), sizes)
