"""Felzenszwalb-Huttenlocher regions, at one scale or several."""

from collections.abc import Sequence

import numpy as np

from detcon_d2.masks.generators.base import to_label_map
from detcon_d2.masks.generators.felzenszwalb import felzenszwalb, felzenszwalb_scales, implementation

_SIGMA_HELP = "standard deviation of the smoothing before, pixels"


class FelzenszwalbRegions:
    """Felzenszwalb-Huttenlocher regions, the paper's default: ``skimage.segmentation.felzenszwalb`` at full resolution [C].

    Args:
        scale: larger means larger regions; > 0.
        sigma: standard deviation of the smoothing, pixels; >= 0.
        min_size: smaller regions are merged, pixels; >= 1.

    Raises:
        ValueError: a parameter out of range; when called, more than 65,535 regions.
    """

    name = "fh"
    needs_annotations = False
    layers = 1
    HELP = {
        "scale": "larger means larger regions",
        "sigma": _SIGMA_HELP,
        "min_size": "smaller regions are merged into neighbours, pixels",
    }

    def __init__(self, *, scale: float = 1000.0, sigma: float = 0.8, min_size: int = 1000) -> None:
        if not (scale > 0 and sigma >= 0 and min_size >= 1):
            raise ValueError(f"fh: found scale {scale}, sigma {sigma}, min_size {min_size}; expected scale > 0, sigma >= 0, min_size >= 1")
        self.scale, self.sigma, self.min_size = float(scale), float(sigma), int(min_size)

    def params(self) -> dict:
        return {"scale": self.scale, "sigma": self.sigma, "min_size": self.min_size}

    def prepare(self) -> None:
        """Compile what is compiled, so that worker processes only read it, and log what does the work."""
        implementation()

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return to_label_map(felzenszwalb(image, **self.params()))

    def advice(self, height: int, width: int) -> str | None:
        """A tenth of the image's area as scale and a fiftieth as min_size (about ten regions on 32 px CIFAR images), or a third of
        what was used, if that is less."""
        scale, min_size = min(self.scale / 3, height * width / 10), min(self.min_size / 3, height * width / 50)
        return f"--scale {_one_digit(scale):g} --min-size {_one_digit(min_size):g}"


class FelzenszwalbScales:
    """Felzenszwalb-Huttenlocher regions at several scales, a layer each, for little more time than one; see ``DETCON.MASKS.LAYER``.

    Args:
        scales: as ``scale`` of :class:`FelzenszwalbRegions`.
        sigma: see there, of all layers.
        min_sizes: as ``min_size`` there, one a scale or one for all; None: each scale itself, as in the paper.

    Raises:
        ValueError: a parameter out of range; when called, more than 65,535 regions.
    """

    name = "fh_scales"
    needs_annotations = False
    HELP = {
        "scales": "one layer of label maps for each, larger means larger regions",
        "sigma": _SIGMA_HELP,
        "min_sizes": "smaller regions are merged into neighbours, pixels; one a scale, or one for all (not given: each scale itself)",
    }

    def __init__(
        self, *, scales: Sequence[float] = (250.0, 500.0, 1000.0), sigma: float = 0.8, min_sizes: Sequence[int] | None = None
    ) -> None:
        given = [max(1, round(scale)) for scale in scales] if min_sizes is None else list(min_sizes)
        sizes = given * len(scales) if len(given) == 1 else given
        if not (len(scales) and len(sizes) == len(scales) and min(scales) > 0 and sigma >= 0 and min(sizes) >= 1):
            raise ValueError(
                f"fh_scales: found scales {list(scales)}, sigma {sigma}, min_sizes {given}; expected at least one scale, all > 0, "
                "sigma >= 0, and as many min_sizes as scales, or one, all >= 1"
            )
        self.scales, self.sigma, self.min_sizes = [float(scale) for scale in scales], float(sigma), [int(size) for size in sizes]

    @property
    def layers(self) -> int:
        """Number of scales."""
        return len(self.scales)

    def params(self) -> dict:
        return {"scales": self.scales, "sigma": self.sigma, "min_sizes": self.min_sizes}

    def prepare(self) -> None:
        """As :meth:`FelzenszwalbRegions.prepare`."""
        implementation()

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return to_label_map(felzenszwalb_scales(image, **self.params()))

    def advice(self, height: int, width: int) -> str | None:
        """That of :class:`FelzenszwalbRegions` for the largest scale, and the same fractions of the others."""
        largest = max(self.scales)
        factor = min(1 / 3, height * width / 10 / largest), min(1 / 3, height * width / 50 / max(self.min_sizes))
        scales = ",".join(f"{_one_digit(scale * factor[0]):g}" for scale in self.scales)
        return f"--scales {scales} --min-sizes {','.join(f'{_one_digit(size * factor[1]):g}' for size in self.min_sizes)}"


def _one_digit(value: float) -> float:
    return max(1.0, float(f"{value:.1g}"))
