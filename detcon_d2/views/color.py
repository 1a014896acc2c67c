"""Photometric operators on float32 images (H, W, 3), RGB in [0, 1]. Pure: each returns a new array and does not clip unless stated.

The first four are dm_pix's, as the released code uses them; those with ``blend`` or ``scale`` in the name are torchvision's.
"""

import cv2
import numpy as np

# ITU-R BT.601 luma, as dm_pix and torchvision write it.
LUMA = np.array([[0.2989, 0.587, 0.114]], dtype=np.float32)


def add_brightness(image: np.ndarray, delta: float) -> np.ndarray:
    """``image + delta``."""
    return image + np.float32(delta)


def scale_contrast_per_channel(image: np.ndarray, factor: float) -> np.ndarray:
    """``mean + factor * (image - mean)`` with the mean of each channel."""
    mean = np.array(cv2.mean(image)[:3])
    return image * np.float32(factor) + ((1 - factor) * mean).astype(np.float32)


def scale_hsv_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply S of HSV by ``factor`` >= 0 and clip it to [0, 1]; H and V stay.

    With V = max and S = (V - min) / V, a channel c becomes V - (V - c) * S' / S: no hue is computed.
    """
    # Planes: NumPy's reductions over an axis of three take ten times as long.
    red, green, blue = cv2.split(image)
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    # S' / S = min(factor, 1 / S); grey pixels have no chroma to scale.
    ratio = np.minimum(np.float32(factor), np.divide(value, chroma, out=np.ones_like(value), where=chroma > 0))[..., None]
    value = value[..., None]
    return value - (value - image) * ratio


def shift_hue(image: np.ndarray, delta: float) -> np.ndarray:
    """Add ``delta`` (in turns, [-1, 1]) to H of HSV, wrapping around."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    # OpenCV's float hue is in degrees.
    hsv[..., 0] = (hsv[..., 0] + np.float32(360 * delta)) % np.float32(360)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def scale_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """torchvision's ``adjust_brightness``: ``image * factor``."""
    return image * np.float32(factor)


def blend_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """torchvision's ``adjust_contrast``: the same blend with one number, the mean of the grey image."""
    mean = cv2.mean(cv2.transform(image, LUMA))[0]
    return image * np.float32(factor) + np.float32((1 - factor) * mean)


def blend_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """torchvision's ``adjust_saturation``: ``factor * image + (1 - factor) * grey``."""
    return image * np.float32(factor) + np.float32(1 - factor) * cv2.transform(image, LUMA)[..., None]


def to_gray(image: np.ndarray) -> np.ndarray:
    """Luma in all three channels."""
    return cv2.transform(image, np.repeat(LUMA, 3, axis=0))


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """``1 - image`` where ``image >= threshold``."""
    return np.where(image < threshold, image, 1 - image)


def gaussian_kernel(radius: int, sigma: float) -> np.ndarray:
    """float32 (2 * radius + 1,): a normalised Gaussian of ``sigma`` > 0 pixels."""
    x = np.arange(-radius, radius + 1)
    # exp may underflow to 0 in the tails of a small sigma, never in the middle.
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    return (kernel / kernel.sum()).astype(np.float32)


def gaussian_blur(image: np.ndarray, radius: int, sigma: float) -> np.ndarray:
    """Separable blur with zeros outside the image ("SAME" padding): borders darken, as in the released code."""
    kernel = gaussian_kernel(radius, sigma)
    return cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_CONSTANT)


def blur_radius(fraction: float, size: int) -> int:
    """Taps on each side of the centre for a kernel of ``fraction`` * ``size``: 0.1 and 224 give 11, so 23 taps."""
    return int(fraction * size / 2)
