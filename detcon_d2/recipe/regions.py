"""The generator whose regions follow the objects best, or without annotations keep the most cells: tried on a sample of the images."""

import time
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import find_objects
from torchvision.ops import box_iou
from tqdm import tqdm

from detcon_d2 import d2
from detcon_d2.engine.view_figures import ViewFigures
from detcon_d2.engine.visualize import SheetRow, measure_views
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.generators.registry import build_generator
from detcon_d2.modeling.backbone import feature_strides
from detcon_d2.recipe.look import Images, Objects, affordable
from detcon_d2.recipe.views import view_rows

NEARLY_ALL = 0.85
"""Share of the largest number of regions with a cell that the chosen regions keep, where no objects are annotated."""
MOST = 0.8
"""Share of the best overlap with the objects that the chosen regions have. Measured after five minutes of mask prediction (60,000 images,
docs/experiments.md): regions with 0.7 to 1.0 of it gain the same, within 0.3 AP, on nuclei and on blood cells; with 0.55 of it blood cells
lost 1.6.
"""
_PARTS = (8, 4, 2, 1)
_FINEST = 16  # parts, where the overlap with objects decides
_SCALES = (3.0, 0.3, 0.1)
"""FH's scale in units of min_size: that of configs/quickstart, and such that divide images of soft contrast."""
_SIGMA = 0.8
_TIMED = 4  # images
FEW = 2
"""Regions with a cell per view. With fewer there is nothing to learn within an image, and the smaller scale is tried."""


class Candidate(NamedTuple):
    """A generator, the figures of views with its regions, and how well these follow the annotated objects: :func:`box_overlaps`, the mean
    over the objects; None without objects."""

    generator: RegionGenerator
    figures: ViewFigures
    overlap: float | None

    def line(self) -> str:
        """The candidate and its figures in words."""
        text = " ".join(f"{name} {value:g}" for name, value in self.generator.params().items())
        regions, kept, lost = self.figures.regions, self.figures.kept, self.figures.lost
        text = f"{self.generator.name} {text}: {regions:.1f} regions per view, {kept:.1f} keep a cell ({lost:.0%} lost)"
        return text if self.overlap is None else f"{text}; overlap with the objects {self.overlap:.2f}"

    def seconds(self, images: Images) -> float:
        """That the generator takes for an image."""
        some = images.limited(_TIMED).sample
        start = time.perf_counter()
        for image in some:
            self.generator(image, np.random.default_rng(0))
        return (time.perf_counter() - start) / len(some)


def try_regions(cfg: "d2.CfgNode", images: Images, objects: Objects | None) -> tuple[list[Candidate], int]:
    """FH at several scales and sizes of regions, at each scale the finest first, and the index of the choice.

    With annotated objects that is the generator with the fewest regions of those that have :data:`MOST` of the best overlap with them, and
    :data:`FEW` regions with a cell. Without, it is the largest regions of which nearly as many keep a cell as of any others: finer ones mix
    in the cells and give hardly more to contrast.

    The size of regions is in parts of what a cell covers in the mean crop of the median image, with the ratio of scale and min_size of
    configs/quickstart. Smaller scales are tried where there are objects to judge by, or where fewer than two regions have a cell.
    """
    views = cfg.DETCON.VIEWS
    cells = -(-views.SIZE // feature_strides(cfg)[cfg.DETCON.IN_FEATURE])
    cell_area = sum(views.CROP_AREA) / 2 * images.height * images.width / cells**2
    candidates: list[Candidate] = []
    for scale in _SCALES:
        if objects is not None or not any(one.figures.kept >= FEW for one in candidates):
            parts = _PARTS if objects is None else (_FINEST, *_PARTS)
            sizes = [max(int(float(f"{cell_area / part:.2g}")), 4) for part in parts]
            candidates = _try(cfg, images, objects, scale, sizes) + candidates
    if objects is None:
        most = max(one.figures.kept for one in candidates)
        return candidates, max(index for index, one in enumerate(candidates) if one.figures.kept >= NEARLY_ALL * most)
    enough = [index for index, one in enumerate(candidates) if one.figures.kept >= FEW] or list(range(len(candidates)))
    best = max(candidates[index].overlap for index in enough)
    near = [index for index in enough if candidates[index].overlap >= MOST * best]
    return candidates, min(near, key=lambda index: candidates[index].figures.regions)


def _try(cfg: "d2.CfgNode", images: Images, objects: Objects | None, scale: float, sizes: list[int]) -> list[Candidate]:
    """A candidate for each size. The label maps of an image are made together, which takes little more time than one of them."""
    scales, rng = [scale * size for size in sizes], np.random.default_rng(0)
    together = build_generator("fh_scales", scales=tuple(scales), sigma=_SIGMA, min_sizes=tuple(sizes))
    together.prepare()
    some, compared = images.limited(affordable(images.height, images.width)), [] if objects is None else objects.sample
    label_maps = [together(image, rng) for image in tqdm(some.sample, "regions", unit=" images")]
    overlaps = [
        [box_overlaps(one, boxes) for one in together(image, rng)]
        for image, boxes in tqdm(compared, "overlap with objects", unit=" images", disable=objects is None)
    ]
    return [
        Candidate(
            build_generator("fh", scale=scales[index], sigma=_SIGMA, min_size=size),
            measure_views(view_rows(cfg, some, [layers[index] for layers in label_maps])),
            None if objects is None else float(np.concatenate([layers[index] for layers in overlaps]).mean()),
        )
        for index, size in enumerate(sizes)
    ]


def box_overlaps(label_map: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of every box with the box around the region that fits it best.

    Args:
        label_map: integer (H, W), ids in 0..65535.
        boxes: float (objects, 4): x0, y0, x1, y1, pixels.

    Returns:
        float32 (objects,), in 0..1; 0 if there is no region.
    """
    found = [one for one in find_objects(np.where(label_map == NO_REGION, 0, label_map.astype(np.int32) + 1)) if one]
    corners = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in found] or [(0, 0, 0, 0)]
    return box_iou(torch.tensor(boxes, dtype=torch.float32), torch.tensor(corners, dtype=torch.float32)).amax(1).numpy()


def sheet_rows(cfg: "d2.CfgNode", images: Images, generator: RegionGenerator, count: int) -> list[SheetRow]:
    """Evenly spaced rows for a sheet."""
    some = images.limited(count)
    return list(view_rows(cfg, some, [generator(image, np.random.default_rng(0)) for image in some.sample]))
