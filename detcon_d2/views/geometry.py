"""Geometry of one view: crop, flip and resize of image, label map and coordinates in step (method.md, "Augmentation")."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from detcon_d2.masks.cells import sampled_label_map_to_cells
from detcon_d2.views.resize import INTERPOLATIONS, nearest_indices, resize_cubic, resize_uint8


@dataclass(frozen=True)
class ViewTransform:
    """A fixed crop, resize to a square and horizontal flip, in that order. Applies to images of the height and width it was sampled for.

    Attributes:
        x0, y0: left and top of the crop in pixels.
        width, height: of the crop in pixels, >= 1.
        flip: mirror left and right.
        size: side of the view in pixels.
        interpolation: of the image; a key of ``INTERPOLATIONS``.
    """

    x0: int
    y0: int
    width: int
    height: int
    flip: bool
    size: int
    interpolation: str = "bicubic_tf"

    @property
    def box(self) -> np.ndarray:
        """float32 (4,): the crop as x0, y0, x1, y1 in the image."""
        return np.array([self.x0, self.y0, self.x0 + self.width, self.y0 + self.height], dtype=np.float32)

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """The view of an image: cropped first, so that nothing outside the crop is seen.

        Args:
            image: (H, W, C), uint8, or float32 in [0, 1].

        Returns:
            float32 (size, size, C), clipped to [0, 1].
        """
        crop = self._crop(image)
        scale = 1 / 255 if crop.dtype == np.uint8 else 1
        view = resize_cubic(crop, self.size, INTERPOLATIONS[self.interpolation])
        view *= np.float32(scale)
        return np.ascontiguousarray(self._mirror(view.clip(0, 1, out=view)))

    def apply_image_uint8(self, image: np.ndarray) -> np.ndarray:
        """:meth:`apply_image` in a seventh of the time, within the bounds that :func:`resize_uint8` states.

        Args:
            image: uint8 (H, W, 3).

        Returns:
            uint8 (size, size, 3).
        """
        view = resize_uint8(self._crop(image), self.size, self.interpolation)
        return cv2.flip(view, 1) if self.flip else view

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """The view of a label map (H, W) of any integer type: the same type, (size, size), by half-pixel nearest neighbours."""
        rows, columns = nearest_indices(self.height, self.size), nearest_indices(self.width, self.size)
        return np.ascontiguousarray(self._mirror(self._crop(segmentation)[np.ix_(rows, columns)]))

    def apply_cells(self, label_map: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, int]:
        """``label_map_to_cells(self.apply_segmentation(label_map), size)``, int32 (h, w), without the label map of the view; and the number
        of regions with a pixel in the view."""
        rows, columns = nearest_indices(self.height, self.size), nearest_indices(self.width, self.size)
        return sampled_label_map_to_cells(self._crop(label_map), rows, columns[::-1] if self.flip else columns, size)

    def _crop(self, array: np.ndarray) -> np.ndarray:
        return array[self.y0 : self.y0 + self.height, self.x0 : self.x0 + self.width]

    def _mirror(self, view: np.ndarray) -> np.ndarray:
        return view[:, ::-1] if self.flip else view


@dataclass(frozen=True)
class ViewAugmentation:
    """Samples the :class:`ViewTransform` of a view. Values outside these ranges raise a ValueError.

    Attributes:
        size: side of the view in pixels, >= 1.
        crop_area: range of the crop's area as a fraction of the image's, uniform, in (0, 1].
        crop_aspect: range of width / height, log-uniform.
        flip_prob: in [0, 1].
        interpolation: a key of ``INTERPOLATIONS``.
        crop_attempts: how often a crop that does not fit into the image is sampled again, >= 1.
    """

    size: int
    crop_area: tuple[float, float]
    crop_aspect: tuple[float, float]
    flip_prob: float
    interpolation: str
    crop_attempts: int = 1

    def __post_init__(self):
        area, aspect = self.crop_area, self.crop_aspect
        checks = [
            (self.size >= 1, "SIZE", self.size, "a side of at least 1 pixel"),
            (0 < area[0] <= area[1] <= 1, "CROP_AREA", area, "low <= high in (0, 1]"),
            (0 < aspect[0] <= aspect[1], "CROP_ASPECT", aspect, "low <= high, both > 0"),
            (0 <= self.flip_prob <= 1, "FLIP_PROB", self.flip_prob, "a probability in [0, 1]"),
            (self.crop_attempts >= 1, "CROP_ATTEMPTS", self.crop_attempts, "a number >= 1"),
            (self.interpolation in INTERPOLATIONS, "INTERPOLATION", self.interpolation, f"one of {', '.join(INTERPOLATIONS)}"),
        ]
        wrong = [f"DETCON.VIEWS.{key} is {found!r}; expected {expected}." for ok, key, found, expected in checks if not ok]
        if wrong:
            raise ValueError("\n".join(wrong))

    def sample_view(self, rng: np.random.Generator, height: int, width: int) -> ViewTransform:
        """Samples size and position of the crop in an image of these sides in pixels, then the flip.

        With one attempt, sides that are longer than the image's are clamped to them (DetCon). With more, the first attempt that fits is
        taken; if none does, the largest central crop whose aspect is in the range (torchvision's RandomResizedCrop, which has ten).

        ``rng`` is of the stream GEOMETRY; the views of an image take their numbers from it one after the other.
        """
        for _ in range(self.crop_attempts):
            crop_width, crop_height = self._sample_sides(rng, height, width)
            fits = 1 <= crop_width <= width and 1 <= crop_height <= height
            if fits or self.crop_attempts == 1:
                crop_width, crop_height = min(max(crop_width, 1), width), min(max(crop_height, 1), height)
                x0, y0 = int(rng.integers(width - crop_width + 1)), int(rng.integers(height - crop_height + 1))
                break
        else:
            low, high = self.crop_aspect
            crop_width, crop_height = min(width, max(round(height * high), 1)), min(height, max(round(width / low), 1))
            x0, y0 = (width - crop_width) // 2, (height - crop_height) // 2
        flip = bool(rng.random() < self.flip_prob)
        return ViewTransform(x0, y0, crop_width, crop_height, flip, self.size, self.interpolation)

    def _sample_sides(self, rng: np.random.Generator, height: int, width: int) -> tuple[int, int]:
        """Rounded width and height of a crop: area uniform, aspect log-uniform."""
        area = rng.uniform(*self.crop_area) * height * width
        aspect = float(np.exp(rng.uniform(*np.log(self.crop_aspect).tolist())))
        return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
