"""Photometric augmentation on 8-bit images: the operators of ``photometric``, rounded after each, several times as fast.

Brightness, contrast, grey and torchvision's saturation are one matrix per pixel (``cv2.transform``), solarizing is a table. Hue and an
increase of HSV saturation share one conversion to 8-bit HSV and back if they follow each other; a decrease needs no hue. The blur leaves
out taps beyond three sigma.

On photographs the mean absolute difference from the exact operators is, in 1/255, where rounding alone makes 0.25: brightness 0.15,
contrast 0.25, less saturation 0.2, more 0.3, hue 0.35, grey 0.25, blur 0.25, solarize 0.
"""

from functools import lru_cache

import cv2
import numpy as np

from detcon_d2.views import color
from detcon_d2.views.photometric import CONTRAST, HUE, SATURATION, PhotometricTransform

_IDENTITY = np.eye(3)
_GRAY = np.repeat(color.LUMA, 3, axis=0)
# With a smaller weight of the neighbours, the blur changes no 8-bit value and is skipped.
_NO_WEIGHT = 1 / 1024
_SIGMAS = 3


def apply_photometric_uint8(transform: PhotometricTransform, image: np.ndarray) -> np.ndarray:
    """``transform.apply_image`` for 8-bit images.

    Args:
        transform: the sampled changes.
        image: uint8 (H, W, 3), RGB; not changed.

    Returns:
        uint8 (H, W, 3); ``image`` itself if the transform changes nothing.
    """
    saturation, hue = 1.0, 0.0
    for operator, amount in transform.jitter:
        if operator == HUE:
            hue = amount
        elif operator == SATURATION and transform.operators == "dm_pix":
            saturation = amount
        else:
            image, saturation, hue = _change_hsv(image, saturation, hue), 1.0, 0.0
            image = cv2.transform(image, _matrix(transform.operators, operator, amount, image))
    image = _change_hsv(image, saturation, hue)
    if transform.gray:
        image = cv2.transform(image, _GRAY)
    if transform.blur_sigma is not None:
        image = _blur(image, color.blur_radius(transform.blur_kernel, image.shape[1]), transform.blur_sigma)
    if transform.solarize_threshold is not None:
        image = cv2.LUT(image, _solarize_table(transform.solarize_threshold))
    return image


def _matrix(operators: str, operator: int, amount: float, image: np.ndarray) -> np.ndarray:
    """float32 (3, 4): what an operator other than those in HSV does to a pixel."""
    matrix, offset = amount * _IDENTITY, np.zeros(3)
    if operator == CONTRAST:
        mean = np.array(cv2.mean(image)[:3])
        offset += (1 - amount) * (mean if operators == "dm_pix" else color.LUMA[0] @ mean)
    elif operator == SATURATION:
        matrix += (1 - amount) * _GRAY
    elif operators == "dm_pix":
        matrix, offset = _IDENTITY, offset + 255 * amount
    return np.column_stack([matrix, offset]).astype(np.float32)


def _change_hsv(image: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    """S times ``saturation``, clipped; H plus ``hue`` turns, to 1/256. The two commute."""
    if saturation == 1 and hue == 0:
        return image
    if saturation < 1 and hue == 0:
        # With V the largest channel, S' = f S makes V - (V - c) f of a channel c: no hue is needed where nothing is clipped.
        red, green, blue = cv2.split(image)
        value = cv2.cvtColor(cv2.max(cv2.max(red, green), blue), cv2.COLOR_GRAY2RGB)
        return cv2.addWeighted(image, saturation, value, 1 - saturation, 0)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    if saturation != 1:
        hsv = cv2.transform(hsv, np.diag([1, saturation, 1]).astype(np.float32))
    # Row by row: strided bytes would take four times as long.
    rows = hsv.reshape(len(hsv), -1)
    rows += _hue_row(round(256 * hue) % 256, hsv.shape[1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


@lru_cache(maxsize=256)
def _hue_row(shift: int, width: int) -> np.ndarray:
    """uint8 (3 * width,): what to add to a row of HSV pixels."""
    return np.tile(np.array([shift, 0, 0], np.uint8), width)


def _blur(image: np.ndarray, radius: int, sigma: float) -> np.ndarray:
    kernel = color.gaussian_kernel(min(radius, int(np.ceil(_SIGMAS * sigma))), sigma)
    if len(kernel) == 1 or kernel[len(kernel) // 2 + 1] < _NO_WEIGHT:
        return image
    return cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_CONSTANT)


@lru_cache(maxsize=8)
def _solarize_table(threshold: float) -> np.ndarray:
    values = np.arange(256, dtype=np.uint8)
    return np.where(values < 255 * threshold, values, 255 - values)
