"""From a sampled view to the pixels that the model gets: exact or fast, with colours applied here or left to the device."""

import cv2
import numpy as np
import torch

from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.photometric import PhotometricTransform
from detcon_d2.views.photometric_uint8 import apply_photometric_uint8

_MODES, _PLACES = ("exact", "fast"), ("worker", "device")


class ViewRenderer:
    """Applies a sampled crop and sampled colours to an image (DETCON.AUG.MODE and WHERE)."""

    def __init__(self, *, mode: str = "exact", where: str = "worker"):
        """
        Args:
            mode: "exact": float32 images; "fast": uint8 images.
            where: "worker": photometric augmentation here; "device": the sampled transform goes along with the resized view.

        Raises:
            ValueError: another mode or place.
        """
        for key, value, choices in (("MODE", mode, _MODES), ("WHERE", where, _PLACES)):
            if value not in choices:
                raise ValueError(f"DETCON.AUG.{key} is {value!r}; expected {' or '.join(map(repr, choices))}.")
        self._fast = mode == "fast"
        self._on_device = where == "device"

    def __call__(
        self, view: ViewTransform, photometric: PhotometricTransform, image: np.ndarray
    ) -> dict[str, torch.Tensor | PhotometricTransform]:
        """
        Args:
            view, photometric: the sampled transforms.
            image: uint8 (H, W, 3) RGB.

        Returns:
            ``image`` (3, S, S), float32 in [0, 1] or, in the fast mode, uint8; with ``where`` "device" also ``photometric``, which is
            still to be applied to it.
        """
        pixels = view.apply_image_uint8(image) if self._fast else view.apply_image(image)
        if self._on_device:
            return {"image": to_planes(pixels), "photometric": photometric}
        pixels = apply_photometric_uint8(photometric, pixels) if self._fast else photometric.apply_image(pixels)
        return {"image": to_planes(pixels)}


def to_planes(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) to (3, H, W), contiguous; four times as fast as NumPy's copy of a transposed array."""
    planes = np.empty((3, *pixels.shape[:2]), pixels.dtype)
    cv2.split(pixels, list(planes))
    return torch.from_numpy(planes)
