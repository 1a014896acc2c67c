"""The registry of region generators: ``REGION_GENERATOR_REGISTRY`` and :func:`build_generator`; ``region_generator`` says what one is."""

import numpy as np

from detcon_d2.masks.generators.annotations import annotation_label_map
from detcon_d2.masks.generators.base import RegionGenerator, to_label_map
from detcon_d2.masks.generators.fh import FelzenszwalbRegions, FelzenszwalbScales
from detcon_d2.masks.generators.hierarchy import HierarchicalRegions
from detcon_d2.masks.generators.imported import ImportedRegions
from detcon_d2.masks.generators.superpixels import QuickshiftRegions, SlicRegions, WatershedRegions


class GridRegions:
    """A size x size grid of equal rectangles; size 1 is image-level contrast. Needs no files: see ``DETCON.MASKS.SOURCE: "grid"``."""

    name = "grid"
    needs_annotations = False
    layers = 1
    HELP = {"size": "N x N rectangles"}

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
    layers = 1
    HELP = {}

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


REGION_GENERATOR_REGISTRY = {
    cls.name: cls
    for cls in (
        FelzenszwalbRegions,
        FelzenszwalbScales,
        HierarchicalRegions,
        SlicRegions,
        QuickshiftRegions,
        WatershedRegions,
        GridRegions,
        AnnotationRegions,
        ImportedRegions,
    )
}
"""Name -> class, as in the index of a folder of label maps and on the command line."""


def build_generator(name: str, **params: float) -> RegionGenerator:
    """A generator by name. Raises ValueError for an unknown name, an unknown or missing parameter, or a value out of range."""
    if name not in REGION_GENERATOR_REGISTRY:
        raise ValueError(f"region generator: found {name!r}; expected one of {', '.join(sorted(REGION_GENERATOR_REGISTRY))}")
    known = REGION_GENERATOR_REGISTRY[name]().params()
    unknown = sorted(params.keys() - known.keys())
    if unknown:
        raise ValueError(f"region generator {name!r}: found parameter {', '.join(unknown)}; expected {', '.join(known) or 'none'}")
    missing = [param for param in getattr(REGION_GENERATOR_REGISTRY[name], "REQUIRED", ()) if param not in params]
    if missing:
        raise ValueError(f"region generator {name!r}: found no parameter {missing[0]}; expected one: it has no default")
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
