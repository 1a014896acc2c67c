"""Felzenszwalb-Huttenlocher regions."""

import numpy as np
import skimage.segmentation  # loads its parts on first use, so that training does not pay for them

from detcon_d2.masks.region_generator import to_label_map


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

    def __init__(self, *, scale: float = 1000.0, sigma: float = 0.8, min_size: int = 1000) -> None:
        if not (scale > 0 and sigma >= 0 and min_size >= 1):
            raise ValueError(f"fh: found scale {scale}, sigma {sigma}, min_size {min_size}; expected scale > 0, sigma >= 0, min_size >= 1")
        self.scale, self.sigma, self.min_size = float(scale), float(sigma), int(min_size)

    def params(self) -> dict:
        return {"scale": self.scale, "sigma": self.sigma, "min_size": self.min_size}

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return to_label_map(skimage.segmentation.felzenszwalb(image, **self.params()))

    def advice(self, height: int, width: int) -> str | None:
        """A tenth of the image's area as scale and a fiftieth as min_size (about ten regions on 32 px CIFAR images), or a third of
        what was used, if that is less."""
        scale, min_size = min(self.scale / 3, height * width / 10), min(self.min_size / 3, height * width / 50)
        return f"--scale {max(1.0, float(f'{scale:.1g}')):g} --min-size {max(1.0, float(f'{min_size:.1g}')):g}"
