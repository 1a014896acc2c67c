"""Felzenszwalb-Huttenlocher regions, at one scale or several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detcon_d2.masks.generators.base import RegionGenerator, parameter, to_label_map
from detcon_d2.masks.generators.felzenszwalb import felzenszwalb, felzenszwalb_scales, implementation

_SIGMA_HELP = "standard deviation of the smoothing before, pixels"
_MIN_SIZE_HELP = "smaller regions are merged into neighbours, pixels"


@dataclass(frozen=True, kw_only=True)
class FelzenszwalbRegions(RegionGenerator):
    """Felzenszwalb-Huttenlocher regions, the paper's default: ``skimage.segmentation.felzenszwalb`` at full resolution [C].

    When called, it raises ValueError for more than 65,535 regions.
    """

    name = "fh"
    scale: float = parameter(1000.0, "larger means larger regions", above=0)
    sigma: float = parameter(0.8, _SIGMA_HELP, at_least=0)
    min_size: int = parameter(1000, _MIN_SIZE_HELP, at_least=1)

    prepare = staticmethod(implementation)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return to_label_map(felzenszwalb(image, **self.params()))

    def advice(self, height: int, width: int) -> str | None:
        """A tenth of the image's area as scale and a fiftieth as min_size (about ten regions on 32 px CIFAR images), or a third of the
        current values if that is less."""
        return f"--scale {_smaller([self.scale], height * width / 10)} --min-size {_smaller([self.min_size], height * width / 50)}"


@dataclass(frozen=True, kw_only=True)
class FelzenszwalbScales(RegionGenerator):
    """Felzenszwalb-Huttenlocher regions at several scales, a layer for each, in little more time than one; see ``DETCON.MASKS.LAYER``.

    ``min_sizes`` has a value for each scale, or one for all; without a value it is the scales themselves, as in the paper. When called, it
    raises ValueError for more than 65,535 regions.
    """

    name = "fh_scales"
    scales: tuple[float, ...] = parameter((250.0, 500.0, 1000.0), "one layer of label maps for each, larger means larger regions", above=0)
    sigma: float = parameter(0.8, _SIGMA_HELP, at_least=0)
    min_sizes: tuple[int, ...] = parameter((), f"{_MIN_SIZE_HELP}; one per scale, or one for all (default: each scale itself)", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.min_sizes or tuple(max(1, round(scale)) for scale in self.scales)
        object.__setattr__(self, "min_sizes", sizes * len(self.scales) if len(sizes) == 1 else sizes)
        if not self.scales or len(self.min_sizes) != len(self.scales):
            self._refuse("scales, min_sizes", "at least one scale, and one min_size for all or as many as scales")

    @property
    def layers(self) -> int:
        return len(self.scales)

    prepare = staticmethod(implementation)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return to_label_map(felzenszwalb_scales(image, **self.params()))

    def advice(self, height: int, width: int) -> str | None:
        """That of :class:`FelzenszwalbRegions` for the largest scale, and the same fractions of the others."""
        return f"--scales {_smaller(self.scales, height * width / 10)} --min-sizes {_smaller(self.min_sizes, height * width / 50)}"


def _smaller(values: Sequence[float], largest: float) -> str:
    """The values times one factor, at most 1 / 3, that makes none of them larger than ``largest``; rounded to one digit, at least 1."""
    factor = min(1 / 3, largest / max(values))
    return ",".join(f"{max(1.0, float(f'{value * factor:.1g}')):g}" for value in values)
