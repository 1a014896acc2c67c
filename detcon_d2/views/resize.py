"""Resizing as the released code's TensorFlow does it, and as torch and PIL do: exact separable weights.

Half-pixel centres everywhere: the centre of output pixel i is at (i + 0.5) * source / target in the source.
OpenCV and torch resize 8-bit images several times as fast, with fixed-point weights: :func:`resize_uint8`.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from scipy.sparse import csr_array


@dataclass(frozen=True)
class Interpolation:
    """A cubic convolution (Keys 1981).

    Attributes:
        a: the kernel's slope parameter.
        antialias: widen the kernel when shrinking.
        replicate: pixels outside repeat the edge; otherwise they get no weight and the remaining weights are rescaled to sum to 1.
    """

    a: float
    antialias: bool
    replicate: bool


INTERPOLATIONS = {
    "bicubic_tf": Interpolation(a=-0.5, antialias=False, replicate=False),
    "bicubic_torch": Interpolation(a=-0.75, antialias=False, replicate=True),
    "bicubic_pil": Interpolation(a=-0.5, antialias=True, replicate=False),
}
"""The choices of DETCON.VIEWS.INTERPOLATION: ``tf.image.resize(method="bicubic")``, ``torch.nn.functional.interpolate(mode="bicubic")`` and
``PIL.Image.resize(resample=BICUBIC)`` (without its rounding to 8 bit between the passes). TensorFlow rounds the offsets of its weights to
1/1024 pixel; here they are exact."""


def cubic_kernel(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel at distances ``x`` (any shape): support (-2, 2), 1 at 0, 0 at the other integers."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=512)
def cubic_weights(source: int, target: int, interpolation: Interpolation) -> csr_array:
    """The (target, source) matrix, float32, whose product with ``source`` pixels is their cubic interpolation at ``target`` pixels."""
    scale = source / target
    stretch = max(scale, 1.0) if interpolation.antialias else 1.0
    centers = (np.arange(target) + 0.5) * scale - 0.5
    taps = 2 * int(np.ceil(2 * stretch)) + 1
    columns = np.floor(centers)[:, None].astype(np.int64) + np.arange(taps) - taps // 2
    weights = cubic_kernel((columns - centers[:, None]) / stretch, interpolation.a)
    if not interpolation.replicate:
        weights[(columns < 0) | (columns >= source)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    columns = columns.clip(0, source - 1)
    rows = np.repeat(np.arange(target), taps)
    matrix = csr_array((weights.ravel().astype(np.float32), (rows, columns.ravel())), shape=(target, source))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def resize_cubic(image: np.ndarray, size: int, interpolation: Interpolation) -> np.ndarray:
    """Resize to ``size`` x ``size``.

    Args:
        image: (h, w, C), uint8 or float32.
        size: side of the output in pixels.
        interpolation: one of :data:`INTERPOLATIONS`.

    Returns:
        float32 (size, size, C) on the scale of the input; a cubic kernel overshoots its range at edges.
    """
    height, width, channels = image.shape
    rows = np.ascontiguousarray(image, dtype=np.float32).reshape(height, width * channels)
    tall = (cubic_weights(height, size, interpolation) @ rows).reshape(size, width, channels)
    columns = cv2.transpose(tall).reshape(width, size * channels)
    wide = (cubic_weights(width, size, interpolation) @ columns).reshape(size, size, channels)
    # OpenCV drops a single channel's axis.
    return cv2.transpose(wide).reshape(size, size, channels)


def resize_uint8(image: np.ndarray, size: int, name: str) -> np.ndarray:
    """:func:`resize_cubic` clipped and rounded to 8 bits, by the nearest fast equivalent.

    ``bicubic_torch`` is OpenCV's INTER_CUBIC, within 1 of the exact pixels. ``bicubic_tf`` takes the same: OpenCV's only cubic kernel, with
    a = -0.75 in place of -0.5, a little sharper at edges; on photographs a mean difference of 0.5 to 1 (rounding alone makes 0.25), and up
    to 20 at single pixels. ``bicubic_pil`` is torch's antialiased kernel for 8 bits, rounded between the passes as PIL does: within 3.

    Args:
        image: uint8 (h, w, 3), of any strides.
        size: side of the output in pixels.
        name: a key of :data:`INTERPOLATIONS`.

    Returns:
        uint8 (size, size, 3).
    """
    if not INTERPOLATIONS[name].antialias:
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(planes, (size, size), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def nearest_indices(source: int, target: int) -> np.ndarray:
    """int64 (target,): the source pixel that contains each output pixel's centre.

    In integers, so exact: 100 -> 10 gives 5, 15, ... This is TF2's NEAREST, OpenCV's INTER_NEAREST_EXACT and torch's "nearest-exact".
    """
    return (2 * np.arange(target) + 1) * source // (2 * target)
