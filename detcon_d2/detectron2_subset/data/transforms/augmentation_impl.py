"""The augmentations of detection. Every random number is from numpy's global generator. Letters: image H x W."""

import sys

import numpy as np
from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, PadTransform, Transform, TransformList, VFlipTransform
from PIL.Image import BILINEAR

from .augmentation import Augmentation
from .transform import ResizeTransform


class RandomFlip(Augmentation):
    """Flip with probability ``prob``."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        """ValueError unless exactly one of ``horizontal`` and ``vertical`` is true."""
        if horizontal == vertical:
            raise ValueError(f"RandomFlip flips in one direction, found horizontal={horizontal}, vertical={vertical}; use two of them.")
        self.prob, self.horizontal, self.vertical = prob, horizontal, vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        """A flip of the image (H, W, ...), or nothing."""
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(image.shape[1]) if self.horizontal else VFlipTransform(image.shape[0])


class Resize(Augmentation):
    """Resize to a fixed shape."""

    def __init__(self, shape: int | tuple[int, int], interp: int = BILINEAR) -> None:
        """``shape``: (height, width), or the side of a square. ``interp``: a filter of PIL."""
        self.shape, self.interp = ((shape, shape) if isinstance(shape, int) else tuple(shape)), interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """Image (H, W, ...) -> the shape."""
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Scale so that the short side has a drawn length, or less where the long side would exceed ``max_size``."""

    def __init__(
        self, short_edge_length: int | tuple[int, ...], max_size: int = sys.maxsize, sample_style: str = "range", interp: int = BILINEAR
    ) -> None:
        """AssertionError for another style, or a range that is not two lengths.

        Args:
            short_edge_length: pixels; (smallest, largest) for ``sample_style`` "range", the lengths to choose from for "choice". Length 0
                leaves the image alone.
            max_size: of the long side, in pixels.
            sample_style: "range" or "choice".
            interp: a filter of PIL.
        """
        assert sample_style in ("range", "choice"), f"sample_style is 'range' or 'choice', found {sample_style!r}."
        lengths = (short_edge_length, short_edge_length) if isinstance(short_edge_length, int) else short_edge_length
        assert sample_style == "choice" or len(lengths) == 2, f"A range of short_edge_length has two values, found {lengths}."
        self.short_edge_length, self.max_size, self.sample_style, self.interp = lengths, max_size, sample_style, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a length for the image (H, W, ...)."""
        lengths = self.short_edge_length
        length = np.random.choice(lengths) if self.sample_style == "choice" else np.random.randint(lengths[0], lengths[1] + 1)
        if length == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        return ResizeTransform(height, width, *self.get_output_shape(height, width, length, self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """(height, width) after scaling, rounded half up."""
        scale = short_edge_length / min(oldh, oldw)
        sides = (short_edge_length, scale * oldw) if oldh < oldw else (scale * oldh, short_edge_length)
        shrink = min(1.0, max_size / max(sides))
        height, width = (int(side * shrink + 0.5) for side in sides)
        return height, width


class ResizeScale(Augmentation):
    """Scale jitter: the largest scale that fits into the target size times a factor from U(min_scale, max_scale)."""

    def __init__(self, min_scale: float, max_scale: float, target_height: int, target_width: int, interp: int = BILINEAR) -> None:
        """Targets in pixels; ``interp``: a filter of PIL."""
        self.min_scale, self.max_scale = min_scale, max_scale
        self.target_height, self.target_width, self.interp = target_height, target_width, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a factor for the image (H, W, ...)."""
        old = np.array(image.shape[:2])
        box = np.random.uniform(self.min_scale, self.max_scale) * np.array([self.target_height, self.target_width])
        return ResizeTransform(*image.shape[:2], *np.rint(old * np.min(box / old)).astype(int).tolist(), self.interp)


class FixedSizeCrop(Augmentation):
    """A random window of ``crop_size``; where the image is smaller, all of it, padded at the right and bottom."""

    def __init__(self, crop_size: tuple[int, int], pad: bool = True, pad_value: float = 128.0, seg_pad_value: int = 255) -> None:
        """``crop_size``: (height, width); ``pad`` False: images smaller than it stay smaller."""
        self.crop_size, self.pad, self.pad_value, self.seg_pad_value = crop_size, pad, pad_value, seg_pad_value

    def get_transform(self, image: np.ndarray) -> TransformList:
        """Crop, and pad, for the image (H, W, ...)."""
        size, crop = np.array(image.shape[:2]), np.array(self.crop_size)
        # One number places the window in both directions.
        top, left = np.rint(np.maximum(size - crop, 0) * np.random.uniform()).astype(int).tolist()
        height, width = np.minimum(size, crop).tolist()
        window = CropTransform(left, top, self.crop_size[1], self.crop_size[0], orig_w=image.shape[1], orig_h=image.shape[0])
        missing = (0, 0, self.crop_size[1] - width, self.crop_size[0] - height)
        padding = PadTransform(*missing, orig_w=width, orig_h=height, pad_value=self.pad_value, seg_pad_value=self.seg_pad_value)
        return TransformList([window, padding] if self.pad else [window])


class RandomCrop(Augmentation):
    """A window of a size that ``crop_type`` defines, anywhere in the image."""

    def __init__(self, crop_type: str, crop_size: tuple[float, float]) -> None:
        """``crop_size``, by ``crop_type`` (AssertionError for another one):

        - "relative": fractions (0, 1] of height and width
        - "relative_range": smallest fractions of height and width, the largest is 1; drawn separately
        - "absolute": (height, width) in pixels, at most the image
        - "absolute_range": (smallest, largest) side in pixels, at most the image; height and width drawn separately
        """
        assert crop_type in ("relative_range", "relative", "absolute", "absolute_range"), f"Unknown crop_type {crop_type!r}."
        self.crop_type, self.crop_size = crop_type, crop_size

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a size, then top and left, for the image (H, W, ...)."""
        height, width = image.shape[:2]
        crop_height, crop_width = self.get_crop_size((height, width))
        assert height >= crop_height and width >= crop_width, f"{self} does not fit into an image of {height} x {width}."
        top = np.random.randint(height - crop_height + 1)
        left = np.random.randint(width - crop_width + 1)
        return CropTransform(left, top, crop_width, crop_height)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the window for an image of ``image_size`` = (height, width)."""
        if self.crop_type == "absolute":
            height, width = (min(crop, side) for crop, side in zip(self.crop_size, image_size))
        elif self.crop_type == "absolute_range":
            low, high = self.crop_size
            assert low <= high, f"An absolute_range is (smallest, largest), found {self.crop_size}."
            height, width = (np.random.randint(min(side, low), min(side, high) + 1) for side in image_size)
        else:
            fractions = np.asarray(self.crop_size, dtype=np.float32)
            if self.crop_type == "relative_range":
                fractions = fractions + np.random.rand(2) * (1 - fractions)
            height, width = (int(side * fraction + 0.5) for side, fraction in zip(image_size, fractions))
        return height, width
