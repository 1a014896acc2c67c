"""Region generators: an image in, a map of region ids out.

A generator is a class with keyword parameters and

    params() -> dict                                     what determines its output, plain values; stored beside the label maps
    __call__(image, rng, record=None) -> label map       uint8 (H, W, 3) RGB, NumPy Generator, dataset dict -> uint16 (H, W)
    advice(height, width) -> str | None                  parameters to try where the median image has too few regions

and, for those that read the record's COCO annotations, ``needs_annotations = True``. Add your own to ``REGION_GENERATOR_REGISTRY``.
"""

from typing import Protocol

import numpy as np
import skimage.segmentation  # loads its parts on first use, so that training does not pay for them

from detcon_d2.masks.annotations import annotation_label_map
from detcon_d2.masks.cells import NO_REGION


class RegionGenerator(Protocol):
    """What every entry of ``REGION_GENERATOR_REGISTRY`` makes; see the module."""

    name: str
    needs_annotations: bool

    def params(self) -> dict: ...

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray: ...

    def advice(self, height: int, width: int) -> str | None: ...


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


class GridRegions:
    """A size x size grid of equal rectangles; size 1 is image-level contrast. Needs no files: see ``DETCON.MASKS.SOURCE: "grid"``."""

    name = "grid"
    needs_annotations = False

    def __init__(self, *, size: int = 2) -> None:
        grid_label_map(1, 1, size)
        self.size = int(size)

    def params(self) -> dict:
        return {"size": self.size}

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return grid_label_map(image.shape[0], image.shape[1], self.size)

    def advice(self, height: int, width: int) -> str | None:
        return None  # the number of regions is what was asked for


class AnnotationRegions:
    """COCO instances, and everything else as one background region: see :func:`annotation_label_map`."""

    name = "annotations"
    needs_annotations = True

    def params(self) -> dict:
        return {}

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        if record is None or "annotations" not in record:
            raise ValueError("annotations: found a record without annotations; expected one from coco:/path/instances.json,/path/images")
        found, expected = tuple(image.shape[:2]), (record.get("height", image.shape[0]), record.get("width", image.shape[1]))
        if found != expected:
            raise ValueError(
                f"annotations are for {expected[0]}x{expected[1]} (height x width), found an image of {found[0]}x{found[1]} after its EXIF "
                "orientation; expected the same size: annotate the image as displayed, or remove the orientation tag"
            )
        return to_label_map(annotation_label_map(record["annotations"], *found))

    def advice(self, height: int, width: int) -> str | None:
        return None  # regions are what somebody drew


REGION_GENERATOR_REGISTRY = {cls.name: cls for cls in (FelzenszwalbRegions, GridRegions, AnnotationRegions)}
"""Name -> class, as in the index of a folder of label maps and on the command line."""


def build_generator(name: str, **params: float) -> RegionGenerator:
    """A generator by name. Raises ValueError for an unknown name, an unknown parameter, or a value out of range."""
    if name not in REGION_GENERATOR_REGISTRY:
        raise ValueError(f"region generator: found {name!r}; expected one of {', '.join(sorted(REGION_GENERATOR_REGISTRY))}")
    known = REGION_GENERATOR_REGISTRY[name]().params()
    unknown = sorted(params.keys() - known.keys())
    if unknown:
        raise ValueError(f"region generator {name!r}: found parameter {', '.join(unknown)}; expected {', '.join(known) or 'none'}")
    return REGION_GENERATOR_REGISTRY[name](**params)


def grid_label_map(height: int, width: int, n: int) -> np.ndarray:
    """n x n equal rectangles, row by row: pixel (y, x) has id (y * n // height) * n + x * n // width.

    Returns:
        uint16 (height, width). Raises ValueError unless 1 <= n <= 255 (n * n ids, 65535 means no region).
    """
    if not 1 <= n <= 255:
        raise ValueError(f"grid: found {n}; expected 1..255 (n x n regions, at most 65,535)")
    rows, columns = np.arange(height) * n // height, np.arange(width) * n // width
    return (rows[:, None] * n + columns).astype(np.uint16)


def to_label_map(ids: np.ndarray) -> np.ndarray:
    """Ids 0..65534 as uint16, unchanged; raises ValueError where they would wrap around."""
    if ids.max() >= NO_REGION:
        raise ValueError(f"found {int(ids.max()) + 1} regions; expected at most {NO_REGION}: choose parameters that give larger regions")
    return ids.astype(np.uint16)
