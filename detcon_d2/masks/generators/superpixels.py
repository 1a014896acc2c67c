"""Superpixels of scikit-image as region generators: SLIC, quickshift and watershed, by default with about 16 regions on photographs."""

import cv2
import numpy as np
import skimage.segmentation  # loads its parts on first use, so that training does not pay for them

from detcon_d2.masks.generators.base import to_label_map

_SIGMA_HELP = "standard deviation of the smoothing before, pixels"
_COMPACTNESS_HELP = "more makes regions more compact and less like what is seen"


class SlicRegions:
    """SLIC: k-means over colour and position (Achanta et al., TPAMI 34(11), 2012), ``skimage.segmentation.slic``.

    Args:
        segments: about how many, >= 1; what is not connected or too small joins its neighbour, so that fewer come out.
        compactness: weight of position against colour, > 0.
        sigma: standard deviation of the smoothing, pixels; >= 0.

    Raises:
        ValueError: a parameter out of range; when called, more than 65,535 regions.
    """

    name = "slic"
    needs_annotations = False
    layers = 1
    HELP = {"segments": "about how many regions", "compactness": _COMPACTNESS_HELP, "sigma": _SIGMA_HELP}

    def __init__(self, *, segments: int = 16, compactness: float = 10.0, sigma: float = 1.0) -> None:
        if not (segments >= 1 and compactness > 0 and sigma >= 0):
            raise ValueError(
                f"slic: found segments {segments}, compactness {compactness}, sigma {sigma}; "
                "expected segments >= 1, compactness > 0, sigma >= 0"
            )
        self.segments, self.compactness, self.sigma = int(segments), float(compactness), float(sigma)

    def params(self) -> dict:
        return {"segments": self.segments, "compactness": self.compactness, "sigma": self.sigma}

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return _contiguous(
            skimage.segmentation.slic(
                image, n_segments=self.segments, compactness=self.compactness, sigma=self.sigma, start_label=0, channel_axis=-1
            )
        )

    def advice(self, height: int, width: int) -> str | None:
        return f"--segments {max(16, 2 * self.segments)} --compactness {2 * self.compactness:g}"


class QuickshiftRegions:
    """Quickshift: modes of the density over colour and position (Vedaldi and Soatto, ECCV 2008), ``skimage.segmentation.quickshift``.

    Its time grows with the square of ``kernel_size``: at full size, a kernel with which photographs have about 16 regions takes seconds an
    image. So it sees a reduced image, and its regions are enlarged: their boundaries are as coarse as the reduction.

    Args:
        kernel_size: standard deviation of the density, pixels of the reduced image; larger means larger regions; > 0.
        max_dist: from which distance on pixels do not join; larger means larger regions; > 0.
        ratio: weight of colour against position, in [0, 1].
        side: longer side of the reduced image, pixels; >= 1. Smaller images are not enlarged.

    Raises:
        ValueError: a parameter out of range; when called, more than 65,535 regions.
    """

    name = "quickshift"
    needs_annotations = False
    layers = 1
    HELP = {
        "kernel_size": "standard deviation of the density, pixels of the reduced image; larger means larger regions, and slower",
        "max_dist": "from which distance on pixels do not join; larger means larger regions",
        "ratio": "weight of colour against position, 0 to 1",
        "side": "longer side of the reduced image that is segmented, pixels",
    }

    def __init__(self, *, kernel_size: float = 4.0, max_dist: float = 30.0, ratio: float = 0.5, side: int = 160) -> None:
        if not (kernel_size > 0 and max_dist > 0 and 0 <= ratio <= 1 and side >= 1):
            raise ValueError(
                f"quickshift: found kernel_size {kernel_size}, max_dist {max_dist}, ratio {ratio}, side {side}; "
                "expected kernel_size > 0, max_dist > 0, 0 <= ratio <= 1, side >= 1"
            )
        self.kernel_size, self.max_dist, self.ratio, self.side = float(kernel_size), float(max_dist), float(ratio), int(side)

    def params(self) -> dict:
        return {"kernel_size": self.kernel_size, "max_dist": self.max_dist, "ratio": self.ratio, "side": self.side}

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        height, width = image.shape[:2]
        factor = min(1.0, self.side / max(height, width))
        size = max(1, round(width * factor)), max(1, round(height * factor))
        labels = skimage.segmentation.quickshift(
            cv2.resize(image, size, interpolation=cv2.INTER_AREA), kernel_size=self.kernel_size, max_dist=self.max_dist, ratio=self.ratio
        )
        return _contiguous(cv2.resize(labels.astype(np.int32), (width, height), interpolation=cv2.INTER_NEAREST))

    def advice(self, height: int, width: int) -> str | None:
        return f"--kernel-size {self.kernel_size / 2:g} --max-dist {self.max_dist / 2:g}"


class WatershedRegions:
    """Watershed of the gradient of L*a*b*, flooded from a regular grid of markers, ``skimage.segmentation.watershed``.

    Args:
        markers: about how many regions, >= 1.
        compactness: 0: boundaries lie where the gradient is largest; more makes regions rounder (Neubert and Protzel, ICPR 2014); >= 0.
        sigma: standard deviation of the smoothing before the gradient, pixels; >= 0.

    Raises:
        ValueError: a parameter out of range; when called, more than 65,535 regions.
    """

    name = "watershed"
    needs_annotations = False
    layers = 1
    HELP = {"markers": "about how many regions", "compactness": _COMPACTNESS_HELP, "sigma": _SIGMA_HELP}

    def __init__(self, *, markers: int = 16, compactness: float = 0.0, sigma: float = 2.0) -> None:
        if not (markers >= 1 and compactness >= 0 and sigma >= 0):
            raise ValueError(
                f"watershed: found markers {markers}, compactness {compactness}, sigma {sigma}; "
                "expected markers >= 1, compactness >= 0, sigma >= 0"
            )
        self.markers, self.compactness, self.sigma = int(markers), float(compactness), float(sigma)

    def params(self) -> dict:
        return {"markers": self.markers, "compactness": self.compactness, "sigma": self.sigma}

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        markers = min(self.markers, image.shape[0] * image.shape[1])
        return _contiguous(skimage.segmentation.watershed(self._gradient(image), markers, compactness=self.compactness))

    def _gradient(self, image: np.ndarray) -> np.ndarray:
        """Length of the gradient of all channels together, float32 (H, W)."""
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        if self.sigma:
            lab = cv2.GaussianBlur(lab, (0, 0), self.sigma)
        along = [cv2.Sobel(lab, cv2.CV_32F, dx, 1 - dx) / 8 for dx in (0, 1)]
        return np.sqrt(sum((derivative**2).sum(axis=2) for derivative in along))

    def advice(self, height: int, width: int) -> str | None:
        return f"--markers {max(16, 2 * self.markers)}"


def _contiguous(labels: np.ndarray) -> np.ndarray:
    """Any ids as 0, 1, 2, ... in ascending order; uint16."""
    return to_label_map(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
