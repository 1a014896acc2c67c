"""Superpixels of scikit-image as region generators: SLIC, quickshift and watershed, by default with about 16 regions on photographs.

When called, they raise ValueError for more than 65,535 regions.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import skimage.segmentation  # loads its modules on first use, so training does not pay for them

from detcon_d2.masks.generators.base import RegionGenerator, parameter, to_label_map

_SIGMA_HELP = "standard deviation of the smoothing before, pixels"
_COMPACTNESS_HELP = "larger makes regions more compact and less faithful to the image"


@dataclass(frozen=True, kw_only=True)
class SlicRegions(RegionGenerator):
    """SLIC: k-means over colour and position (Achanta et al., TPAMI 34(11), 2012), ``skimage.segmentation.slic``.

    Disconnected and very small pieces join a neighbour, so there are fewer regions than ``segments``.
    """

    name = "slic"
    segments: int = parameter(16, "about how many regions", at_least=1)
    compactness: float = parameter(10.0, _COMPACTNESS_HELP, above=0)
    sigma: float = parameter(1.0, _SIGMA_HELP, at_least=0)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        params = {"n_segments": self.segments, "compactness": self.compactness, "sigma": self.sigma}
        return _contiguous(skimage.segmentation.slic(image, **params, start_label=0))

    def advice(self, height: int, width: int) -> str | None:
        return f"--segments {max(16, 2 * self.segments)} --compactness {2 * self.compactness:g}"


@dataclass(frozen=True, kw_only=True)
class QuickshiftRegions(RegionGenerator):
    """Quickshift: modes of the density over colour and position (Vedaldi and Soatto, ECCV 2008), ``skimage.segmentation.quickshift``.

    Its time grows with the square of ``kernel_size``, so it segments a reduced image (smaller images are not enlarged), and its regions are
    enlarged again: their boundaries are as coarse as the reduction.
    """

    name = "quickshift"
    kernel_size: float = parameter(
        4.0, "standard deviation of the density, pixels of the reduced image; larger means larger regions, and slower", above=0
    )
    max_dist: float = parameter(30.0, "from which distance on pixels do not join; larger means larger regions", above=0)
    ratio: float = parameter(0.5, "weight of colour against position, 0 to 1", at_least=0, at_most=1)
    side: int = parameter(160, "longer side of the reduced image that is segmented, pixels", at_least=1)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        height, width = image.shape[:2]
        factor = min(1.0, self.side / max(height, width))
        size = max(1, round(width * factor)), max(1, round(height * factor))
        reduced = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        labels = skimage.segmentation.quickshift(reduced, kernel_size=self.kernel_size, max_dist=self.max_dist, ratio=self.ratio)
        return _contiguous(cv2.resize(labels.astype(np.int32), (width, height), interpolation=cv2.INTER_NEAREST))

    def advice(self, height: int, width: int) -> str | None:
        return f"--kernel-size {self.kernel_size / 2:g} --max-dist {self.max_dist / 2:g}"


@dataclass(frozen=True, kw_only=True)
class WatershedRegions(RegionGenerator):
    """Watershed of the gradient of L*a*b*, flooded from a regular grid of markers, ``skimage.segmentation.watershed``.

    With ``compactness`` 0, boundaries are where the gradient is largest (compact watershed: Neubert and Protzel, ICPR 2014).
    """

    name = "watershed"
    markers: int = parameter(16, "about how many regions", at_least=1)
    compactness: float = parameter(0.0, _COMPACTNESS_HELP, at_least=0)
    sigma: float = parameter(2.0, _SIGMA_HELP, at_least=0)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        if self.sigma:
            lab = cv2.GaussianBlur(lab, (0, 0), self.sigma)
        along = [cv2.Sobel(lab, cv2.CV_32F, dx, 1 - dx) / 8 for dx in (0, 1)]
        gradient = np.sqrt(sum((derivative**2).sum(axis=2) for derivative in along))  # of all channels, float32 (H, W)
        markers = min(self.markers, image.shape[0] * image.shape[1])
        return _contiguous(skimage.segmentation.watershed(gradient, markers, compactness=self.compactness))

    def advice(self, height: int, width: int) -> str | None:
        return f"--markers {max(16, 2 * self.markers)}"


def _contiguous(labels: np.ndarray) -> np.ndarray:
    """Any ids as 0, 1, 2, ... in ascending order; uint16."""
    return to_label_map(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
