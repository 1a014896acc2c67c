"""``REGION_GENERATOR_REGISTRY``, :func:`build_generator`, and the two simplest generators."""

from dataclasses import dataclass, fields

import numpy as np

from detcon_d2.io.annotated.kinds import FORMS
from detcon_d2.io.segmentations import box_polygon
from detcon_d2.masks.generators.annotations import annotation_label_map
from detcon_d2.masks.generators.base import RegionGenerator, parameter, to_label_map
from detcon_d2.masks.generators.fh import FelzenszwalbRegions, FelzenszwalbScales
from detcon_d2.masks.generators.hierarchy import HierarchicalRegions
from detcon_d2.masks.generators.imported import ImportedRegions
from detcon_d2.masks.generators.superpixels import QuickshiftRegions, SlicRegions, WatershedRegions


@dataclass(frozen=True, kw_only=True)
class GridRegions(RegionGenerator):
    """A size x size grid of equal rectangles; size 1 is image-level contrast. Needs no files: see ``DETCON.MASKS.SOURCE: "grid"``."""

    name = "grid"
    size: int = parameter(2, "N x N rectangles", flag="--grid", metavar="N", at_least=1, at_most=255)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return grid_label_map(image.shape[0], image.shape[1], self.size)


@dataclass(frozen=True, kw_only=True)
class AnnotationRegions(RegionGenerator):
    """Annotated instances, and everything else as one background region: see :func:`annotation_label_map`."""

    name = "annotations"
    needs_annotations = True
    boxes: bool = parameter(False, "regions of the boxes of objects that have no mask")

    def params(self) -> dict:
        # Folders of label maps that were made before the parameter existed stay valid.
        return super().params() if self.boxes else {}

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        if record is None or "annotations" not in record:
            raise ValueError(f"annotations: found a record without annotations; expected one of an annotated data set: {FORMS}")
        found, expected = tuple(image.shape[:2]), (record.get("height", image.shape[0]), record.get("width", image.shape[1]))
        if found != expected:
            raise ValueError(
                f"annotations are for {expected[0]}x{expected[1]} (height x width), found an image of {found[0]}x{found[1]} after its EXIF "
                "orientation; expected the same size: annotate the image as displayed, or remove the orientation tag"
            )
        annotations = record["annotations"]
        if self.boxes:
            annotations = [one if one.get("segmentation") else one | {"segmentation": box_polygon(one["bbox"])} for one in annotations]
        return to_label_map(annotation_label_map(annotations, *found))


REGION_GENERATOR_REGISTRY: dict[str, type[RegionGenerator]] = {
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


def build_generator(name: str, **params: object) -> RegionGenerator:
    """A generator by name. Raises ValueError for an unknown name, an unknown or missing parameter, or a value out of range."""
    cls = generator_class(name)
    known = {one.name: one for one in fields(cls)}
    if unknown := sorted(params.keys() - known.keys()):
        raise ValueError(f"region generator {name!r}: found parameter {', '.join(unknown)}; expected {', '.join(known) or 'none'}")
    missing = [param for param, one in known.items() if one.metadata.get("required") and param not in params]
    if missing:
        raise ValueError(f"region generator {name!r}: found no parameter {missing[0]}; expected one: it has no default")
    return cls(**params)


def generator_class(name: str) -> type[RegionGenerator]:
    """The class of a registered generator. Raises ValueError for an unknown name."""
    if name not in REGION_GENERATOR_REGISTRY:
        raise ValueError(f"region generator: found {name!r}; expected one of {', '.join(sorted(REGION_GENERATOR_REGISTRY))}")
    return REGION_GENERATOR_REGISTRY[name]


def grid_label_map(height: int, width: int, n: int) -> np.ndarray:
    """n x n equal rectangles, row by row: pixel (y, x) has id (y * n // height) * n + x * n // width.

    Returns:
        uint16 (height, width). Raises ValueError unless 1 <= n <= 255 (n * n ids, 65535 means no region).
    """
    if not 1 <= n <= 255:
        raise ValueError(f"grid: found {n}; expected 1..255 (n x n regions, at most 65,535)")
    rows, columns = np.arange(height) * n // height, np.arange(width) * n // width
    return (rows[:, None] * n + columns).astype(np.uint16)
