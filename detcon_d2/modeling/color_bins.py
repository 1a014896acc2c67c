"""Colours as classes: CIE Lab from sRGB, bins of ab and of L, and the soft assignment of a pixel to them (Zhang et al. 2016, section 2.2);
and a palette of few colours.

Letters: N images, (H, W) pixels, (h, w) feature cells, Q bins.
"""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

# For a = -90, -80, ..., 100: the first and last b, in tens, such that an 8-bit sRGB colour is nearest to (a, b) among multiples of 10.
_ROWS = ((8, 8), (4, 8), (2, 9), (0, 9), (-2, 9), (-3, 9), (-4, 9), (-4, 9), (-5, 9), (-6, 9))
_ROWS += ((-7, 8), (-7, 8), (-8, 8), (-9, 8), (-9, 7), (-10, 7), (-11, 7), (-11, 7), (-9, 0), (-7, -5))
AB_BINS = tuple((10.0 * (row - 9), 10.0 * b) for row, (low, high) in enumerate(_ROWS) for b in range(low, high + 1))
"""The 261 centres (a, b) of the squares of side 10 that 8-bit sRGB colours hit. The authors' file has 313: a hull around these, roughly."""
AB_NEAREST, AB_SIGMA = 10, 5.0
"""A pixel belongs to so many nearest centres, by a Gaussian of this standard deviation."""
L_BINS = tuple(1.0 + 2.0 * k for k in range(50))
"""Centres of 50 bins of lightness."""
_RINGS = ((15.0, 5, 0.0), (43.0, 10, 0.5))  # chroma, hues, first hue in parts of a step
PALETTE = ((0.0, 0.0),) + tuple(
    (chroma * math.cos(math.tau * (k + first) / hues), chroma * math.sin(math.tau * (k + first) / hues))
    for chroma, hues, first in _RINGS
    for k in range(hues)
)
"""16 colours (a, b): grey and two rings. k-means leaves them where they are, for colours of uniform hue whose chroma is exponentially
distributed with mean 15: in 120 photographs of COCO its mean and standard deviation are 15.3 and 15.2. They need no data and no state."""

_CHUNK = 16
# IEC 61966-2-1: linear sRGB to XYZ, divided by the white point D65.
_WHITE = (0.95047, 1.0, 1.08883)
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


def rgb_to_lab(images: torch.Tensor) -> torch.Tensor:
    """sRGB (N, 3, H, W), float32 in [0, 1], to CIE Lab under D65 of the same shape: L in 0..100, a in -87..99, b in -108..95."""
    linear = torch.where(images > 0.04045, ((images + 0.055) / 1.055) ** 2.4, images / 12.92)
    rows = zip(_XYZ, _WHITE, strict=True)
    xyz = [sum(weight / white * linear[:, channel] for channel, weight in enumerate(row)) for row, white in rows]
    x, y, z = (torch.where(v > (6 / 29) ** 3, v.clamp(min=1e-6) ** (1 / 3), v * (29 / 6) ** 2 / 3 + 4 / 29) for v in xyz)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def soft_ab(ab: torch.Tensor) -> torch.Tensor:
    """(N, 2, H, W) to its bins, (N, 261, H, W) float32: Gaussian weights of the 10 nearest centres, which sum to 1."""
    centers = torch.tensor(AB_BINS, device=ab.device)
    distances = (ab[:, None] - centers[:, :, None, None]).square().sum(2)
    nearest, index = distances.topk(AB_NEAREST, dim=1, largest=False)
    weights = (-nearest / (2 * AB_SIGMA**2)).softmax(1)
    return torch.zeros_like(distances).scatter_(1, index, weights)


def nearest_color(ab: torch.Tensor) -> torch.Tensor:
    """(N, 2, h, w) to the number of the nearest colour of :data:`PALETTE`, int64 (N, h, w)."""
    palette = torch.tensor(PALETTE, device=ab.device)
    return (ab[:, None] - palette[:, :, None, None]).square().sum(2).argmin(1)


def soft_lightness(lightness: torch.Tensor) -> torch.Tensor:
    """(N, 1, H, W) in 0..100 to its bins, (N, 50, H, W) float32: linear weights of the two nearest centres, which sum to 1."""
    centers = torch.tensor(L_BINS, device=lightness.device)
    clamped = lightness.clamp(L_BINS[0], L_BINS[-1])
    return (1 - (clamped - centers[:, None, None]).abs() / 2).clamp(min=0)


@torch.no_grad()
def cell_targets(
    soft: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor, size: tuple[int, int], pixel_stride: int
) -> torch.Tensor:
    """The mean assignment of each feature cell: (N, Q, h, w) float32, which sums to 1 over Q.

    Args:
        soft: :func:`soft_ab` or :func:`soft_lightness`.
        values: what it takes, (N, c, H, W).
        size: (h, w).
        pixel_stride: every so many rows and columns of pixels count, as in the authors' targets of a quarter of the resolution.
    """
    first = pixel_stride // 2
    pixels = values[:, :, first::pixel_stride, first::pixel_stride]
    return torch.cat([F.adaptive_avg_pool2d(soft(chunk), size) for chunk in pixels.split(_CHUNK)])
