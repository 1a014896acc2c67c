"""Regions in colour over an image, and text beside it: what all sheets share."""

import colorsys

import numpy as np
import skimage.segmentation  # loads its parts on first use, so that training does not pay for them
from PIL import ImageFont

from detcon_d2.masks.cells import NO_REGION

_NO_REGION_COLOR = (70, 70, 70)
_OPACITY = 0.6


def region_color(region: int) -> tuple[int, int, int]:
    """RGB of a region id, the same everywhere; neighbouring ids differ most in hue, 65535 (no region) is dark grey."""
    if region == NO_REGION:
        return _NO_REGION_COLOR
    # Steps of the golden ratio keep the hues of any first n ids apart; saturation and value tell apart what comes near after many.
    rgb = colorsys.hsv_to_rgb(region * 0.618034 % 1, (0.95, 0.6, 0.8)[region % 3], (1.0, 0.95, 0.7)[region // 3 % 3])
    return tuple(round(255 * channel) for channel in rgb)


def overlay_regions(image: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    """Regions' colours over an image uint8 (H, W, 3), with white boundaries: uint8 (H, W, 3).

    Args:
        image: RGB.
        label_map: (H, W) region ids; 65535 = no region.
    """
    ids, inverse = np.unique(label_map, return_inverse=True)
    colors = np.array([region_color(int(region)) for region in ids], dtype=np.float32)[inverse.reshape(label_map.shape)]
    # Over grey of medium brightness: a region keeps its colour where a view is dark, bright or tinted.
    gray = image.astype(np.float32).mean(axis=2, keepdims=True)
    gray = (gray - gray.mean() + 128).clip(0, 255)
    blended = (_OPACITY * colors + (1 - _OPACITY) * gray).astype(np.uint8)
    # Mode "inner" would take id 0 for background.
    blended[skimage.segmentation.find_boundaries(label_map, mode="thick")] = 255
    return blended


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of Pillow, which is there on every machine; ``size`` in pixels."""
    return ImageFont.load_default(size)


def shorten(text: str, width: int, size: int) -> str:
    """The text, cut to end in "..." if it is wider than ``width`` pixels in the font of that size."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
