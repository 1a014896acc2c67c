"""``REGION_GENERATOR_REGISTRY``, :func:`build_generator`, and the simplest generator."""

from dataclasses import dataclass, fields

import numpy as np

from detcon_d2.masks.generators.annotations import AnnotationRegions
from detcon_d2.masks.generators.base import RegionGenerator, parameter, read_value
from detcon_d2.masks.generators.felzenszwalb import FelzenszwalbRegions, FelzenszwalbScales
from detcon_d2.masks.generators.hierarchy import HierarchicalRegions
from detcon_d2.masks.generators.imported import ImportedRegions
from detcon_d2.masks.generators.motion import MotionRegions
from detcon_d2.masks.generators.superpixels import QuickshiftRegions, SlicRegions, WatershedRegions


@dataclass(frozen=True, kw_only=True)
class GridRegions(RegionGenerator):
    """A size x size grid of equal rectangles; size 1 is image-level contrast. Needs no files: see ``DETCON.MASKS.SOURCE: "grid"``."""

    name = "grid"
    size: int = parameter(2, "N x N rectangles", flag="--grid", metavar="N", at_least=1, at_most=255)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return grid_label_map(image.shape[0], image.shape[1], self.size)


REGION_GENERATOR_REGISTRY: dict[str, type[RegionGenerator]] = {
    cls.name: cls
    for cls in (
        *(FelzenszwalbRegions, FelzenszwalbScales, HierarchicalRegions),
        *(SlicRegions, QuickshiftRegions, WatershedRegions),
        *(GridRegions, AnnotationRegions, ImportedRegions, MotionRegions),
    )
}
"""Name -> class, as in the index of a folder of label maps and on the command line."""


def build_generator(name: str, /, **params: object) -> RegionGenerator:
    """A generator by name; a parameter may be a text, as on the command line (:func:`read_value`). Raises ValueError: an unknown name, an
    unknown or missing parameter, a text of another type, or a value out of range."""
    if name not in REGION_GENERATOR_REGISTRY:
        raise ValueError(f"region generator: found {name!r}; expected one of {', '.join(sorted(REGION_GENERATOR_REGISTRY))}")
    cls = REGION_GENERATOR_REGISTRY[name]
    known = {one.name: one for one in fields(cls)}
    if unknown := sorted(params.keys() - known.keys()):
        raise ValueError(f"region generator {name!r}: found parameter {', '.join(unknown)}; expected {', '.join(known) or 'none'}")
    missing = [param for param, one in known.items() if one.metadata.get("required") and param not in params]
    if missing:
        raise ValueError(f"region generator {name!r}: found no parameter {missing[0]}; expected one: it has no default")
    try:
        params = {param: read_value(known[param], value) if isinstance(value, str) else value for param, value in params.items()}
    except ValueError as error:
        raise ValueError(f"region generator {name!r}: {error}") from None
    return cls(**params)


def grid_label_map(height: int, width: int, n: int) -> np.ndarray:
    """n x n equal rectangles, row by row: pixel (y, x) has id (y * n // height) * n + x * n // width; uint16 (height, width). Raises
    ValueError unless 1 <= n <= 255 (n * n ids, 65535 means no region)."""
    if not 1 <= n <= 255:
        raise ValueError(f"grid: found {n}; expected 1..255 (n x n regions, at most 65,535)")
    rows, columns = np.arange(height) * n // height, np.arange(width) * n // width
    return (rows[:, None] * n + columns).astype(np.uint16)
