"""From a sampled view to what the model gets of it: exactly or fast, with its colours or with what the device needs to make them."""

import cv2
import numpy as np
import torch

from detcon_d2 import d2
from detcon_d2.io.images import read_image, read_image_fast
from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.photometric import PhotometricTransform
from detcon_d2.views.photometric_uint8 import apply_photometric_uint8

_MODES, _PLACES = ("exact", "fast"), ("worker", "device")
_RESNET = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
_PYRAMID = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
_STRIDES = {
    "build_resnet_backbone": _RESNET,
    "build_detcon_resnet_backbone": _RESNET,
    "build_resnet_fpn_backbone": _PYRAMID,
    "build_detcon_resnet_fpn_backbone": _PYRAMID,
}


class ViewRenderer:
    """Applies what was drawn for a view to image and label map (DETCON.AUG.MODE and WHERE)."""

    @d2.configurable
    def __init__(self, *, mode: str = "exact", where: str = "worker", cells: tuple[int, int] | None = None):
        """
        Args:
            mode: "exact": float32 images, label maps; "fast": uint8 images, cells.
            where: "worker": photometric augmentation here; "device": the drawn transform goes along with the resized view.
            cells: (h, w) of the model's features, to which fast regions are reduced; None: they stay label maps.

        Raises:
            ValueError: another mode or place.
        """
        for key, value, choices in (("MODE", mode, _MODES), ("WHERE", where, _PLACES)):
            if value not in choices:
                raise ValueError(f"DETCON.AUG.{key} is {value!r}; expected {' or '.join(map(repr, choices))}.")
        self._fast = mode == "fast"
        self._on_device = where == "device"
        self._cells = cells

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments from DETCON.AUG and the backbone."""
        return {"mode": cfg.DETCON.AUG.MODE, "where": cfg.DETCON.AUG.WHERE, "cells": feature_cells(cfg)}

    def read_image(self, file_name: str) -> np.ndarray:
        """uint8 (H, W, 3) RGB; raises ImageReadError, naming the file."""
        return read_image_fast(file_name) if self._fast else read_image(file_name)

    def __call__(
        self, view: ViewTransform, photometric: PhotometricTransform, image: np.ndarray, label_map: np.ndarray | None
    ) -> dict[str, torch.Tensor | PhotometricTransform]:
        """
        Args:
            view, photometric: what was drawn.
            image: uint8 (H, W, 3) RGB.
            label_map: uint16 (H, W), or None.

        Returns:
            ``image`` (3, S, S), float32 in [0, 1] or, fast, uint8; with ``where`` "device" also ``photometric``, still to be applied to
            it; unless the label map is None, ``label_map`` int32 (S, S) or, fast, ``cells`` int32 (h, w).
        """
        rendered = {"image": to_planes(self._pixels(view, photometric, image))}
        if self._on_device:
            rendered["photometric"] = photometric
        if label_map is not None and self._fast and self._cells is not None:
            rendered["cells"] = torch.from_numpy(view.apply_cells(label_map, self._cells))
        elif label_map is not None:
            rendered["label_map"] = torch.from_numpy(view.apply_segmentation(label_map).astype(np.int32))
        return rendered

    def _pixels(self, view: ViewTransform, photometric: PhotometricTransform, image: np.ndarray) -> np.ndarray:
        pixels = view.apply_image_uint8(image) if self._fast else view.apply_image(image)
        if self._on_device:
            return pixels
        return apply_photometric_uint8(photometric, pixels) if self._fast else photometric.apply_image(pixels)


def to_planes(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) to (3, H, W), contiguous; four times as fast as NumPy's copy of a transposed array."""
    planes = np.empty((3, *pixels.shape[:2]), pixels.dtype)
    cv2.split(pixels, list(planes))
    return torch.from_numpy(planes)


def feature_cells(cfg: "d2.CfgNode") -> tuple[int, int] | None:
    """(h, w) of a view's features DETCON.IN_FEATURE, from the config alone; None for a backbone that is neither Detectron2's nor ours."""
    feature = cfg.DETCON.IN_FEATURE
    stride = _STRIDES.get(cfg.MODEL.BACKBONE.NAME, {}).get(feature)
    if stride is None:
        return None
    if feature == "res5":
        stride //= cfg.MODEL.RESNETS.RES5_DILATION
    side = -(-cfg.DETCON.VIEWS.SIZE // stride)
    return side, side
