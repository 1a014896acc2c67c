"""The augmentations of detection. All random numbers come from the global numpy generator. Letters: image H x W."""

import sys

import numpy as np
from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, PadTransform, Transform, TransformList, VFlipTransform
from PIL.Image import BILINEAR

from .augmentation import Augmentation
from .transform import ResizeTransform


class RandomFlip(Augmentation):
    """Flips the image with probability ``prob``."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        """ValueError unless exactly one of ``horizontal`` and ``vertical`` is true."""
        if horizontal == vertical:
            raise ValueError(f"RandomFlip flips in one direction, found horizontal={horizontal}, vertical={vertical}; use two of them.")
        self.prob, self.horizontal, self.vertical = prob, horizontal, vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return a flip of the image (H, W, ...), or no operation."""
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(image.shape[1]) if self.horizontal else VFlipTransform(image.shape[0])


class ResizeShortestEdge(Augmentation):
    """Scales the image so that the short side has a sampled length, or less if the long side would exceed ``max_size``."""

    def __init__(
        self, short_edge_length: int | tuple[int, ...], max_size: int = sys.maxsize, sample_style: str = "range", interp: int = BILINEAR
    ) -> None:
        """
        Args:
            short_edge_length: in pixels; (smallest, largest) for ``sample_style`` "range", all possible lengths for "choice". Length 0
                keeps the image as it is.
            max_size: the largest length of the long side, in pixels.
            sample_style: "range" or "choice".
            interp: a filter of PIL.

        AssertionError for another style, or a range that is not two lengths.
        """
        assert sample_style in ("range", "choice"), f"sample_style is 'range' or 'choice', found {sample_style!r}."
        lengths = (short_edge_length, short_edge_length) if isinstance(short_edge_length, int) else short_edge_length
        assert sample_style == "choice" or len(lengths) == 2, f"A range of short_edge_length has two values, found {lengths}."
        self.short_edge_length, self.max_size, self.sample_style, self.interp = lengths, max_size, sample_style, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """Sample a length for the image (H, W, ...)."""
        lengths = self.short_edge_length
        length = np.random.choice(lengths) if self.sample_style == "choice" else np.random.randint(lengths[0], lengths[1] + 1)
        if length == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        return ResizeTransform(height, width, *self.get_output_shape(height, width, length, self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """Return (height, width) after scaling, rounded half up."""
        scale = short_edge_length / min(oldh, oldw)
        sides = (short_edge_length, scale * oldw) if oldh < oldw else (scale * oldh, short_edge_length)
        shrink = min(1.0, max_size / max(sides))
        height, width = (int(side * shrink + 0.5) for side in sides)
        return height, width


class ResizeScale(Augmentation):
    """Scale jitter: scales the image to the largest size that fits into the target size times a factor from U(min_scale, max_scale)."""

    def __init__(self, min_scale: float, max_scale: float, target_height: int, target_width: int, interp: int = BILINEAR) -> None:
        """``target_height`` and ``target_width`` are in pixels; ``interp``: a filter of PIL."""
        self.min_scale, self.max_scale = min_scale, max_scale
        self.target_height, self.target_width, self.interp = target_height, target_width, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """Sample a factor for the image (H, W, ...)."""
        old = np.array(image.shape[:2])
        box = np.random.uniform(self.min_scale, self.max_scale) * np.array([self.target_height, self.target_width])
        return ResizeTransform(*image.shape[:2], *np.rint(old * np.min(box / old)).astype(int).tolist(), self.interp)


class FixedSizeCrop(Augmentation):
    """Crops a random window of ``crop_size``; an image that is smaller is padded at the right and bottom."""

    def __init__(self, crop_size: tuple[int, int]) -> None:
        """``crop_size``: (height, width). The padding has the value 128, in labels 255."""
        self.crop_size = crop_size

    def get_transform(self, image: np.ndarray) -> TransformList:
        """Return the crop and the padding for the image (H, W, ...)."""
        size, crop = np.array(image.shape[:2]), np.array(self.crop_size)
        # One random number defines the position in both directions.
        top, left = np.rint(np.maximum(size - crop, 0) * np.random.uniform()).astype(int).tolist()
        height, width = np.minimum(size, crop).tolist()
        window = CropTransform(left, top, self.crop_size[1], self.crop_size[0], orig_w=image.shape[1], orig_h=image.shape[0])
        missing = (0, 0, self.crop_size[1] - width, self.crop_size[0] - height)
        padding = PadTransform(*missing, orig_w=width, orig_h=height, pad_value=128.0, seg_pad_value=255)
        return TransformList([window, padding])


class RandomCrop(Augmentation):
    """Crops a window at a random position in the image. ``crop_type`` defines its size."""

    def __init__(self, crop_type: str, crop_size: tuple[float, float]) -> None:
        """The meaning of ``crop_size`` depends on ``crop_type`` (AssertionError for another type):

        - "relative": fractions (0, 1] of height and width
        - "relative_range": the smallest fractions of height and width, the largest are 1; both are sampled independently
        - "absolute": (height, width) in pixels, at most the image
        - "absolute_range": (smallest, largest) side in pixels, at most the image; height and width are sampled independently
        """
        assert crop_type in ("relative_range", "relative", "absolute", "absolute_range"), f"Unknown crop_type {crop_type!r}."
        self.crop_type, self.crop_size = crop_type, crop_size

    def get_transform(self, image: np.ndarray) -> Transform:
        """Sample a size, then top and left, for the image (H, W, ...)."""
        height, width = image.shape[:2]
        crop_height, crop_width = self.get_crop_size((height, width))
        assert height >= crop_height and width >= crop_width, f"{self} does not fit into an image of {height} x {width}."
        top = np.random.randint(height - crop_height + 1)
        left = np.random.randint(width - crop_width + 1)
        return CropTransform(left, top, crop_width, crop_height)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Sample (height, width) of the window for an image of ``image_size`` = (height, width)."""
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
