"""The generator whose regions keep the most cells: tried on a sample of the images, in the views of the run."""

import time
from typing import NamedTuple

import numpy as np

from detcon_d2 import d2
from detcon_d2.engine.view_figures import ViewFigures
from detcon_d2.engine.visualize import SheetRow, measure_views
from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.generators.registry import build_generator
from detcon_d2.modeling.backbone import feature_strides
from detcon_d2.recipe.look import Images
from detcon_d2.recipe.views import view_rows

NEARLY_ALL = 0.85
"""Share of the largest number of regions with a cell that the chosen regions keep."""
_PARTS = (8, 4, 2, 1)
_SCALES = (3.0, 0.3)
"""FH's scale in units of min_size: that of configs/quickstart, and one that divides images of soft contrast."""
FEW = 2
"""Regions with a cell per view. With fewer there is nothing to learn within an image, and the smaller scale is tried."""


class Candidate(NamedTuple):
    """A generator, the figures of views with its regions, and the seconds that it takes for an image."""

    generator: RegionGenerator
    figures: ViewFigures
    seconds: float

    def line(self) -> str:
        """The candidate and its figures in words."""
        text = " ".join(f"{name} {value:g}" for name, value in self.generator.params().items())
        regions, kept, lost = self.figures.regions, self.figures.kept, self.figures.lost
        return f"{self.generator.name} {text}: {regions:.1f} regions per view, {kept:.1f} keep a cell ({lost:.0%} lost)"


def try_regions(cfg: "d2.CfgNode", images: Images) -> tuple[list[Candidate], int]:
    """FH at several sizes of regions, finest first, and the index of the choice: the largest regions of which nearly as many keep a cell as
    of any others. Finer ones mix in the cells and give hardly more to contrast.

    The size of regions is in parts of what a cell covers in the mean crop of the median image, with the ratio of scale and min_size of
    configs/quickstart. Where that leaves fewer than two regions with a cell, as in images of soft contrast, a smaller scale is tried.
    """
    views = cfg.DETCON.VIEWS
    cells = -(-views.SIZE // feature_strides(cfg)[cfg.DETCON.IN_FEATURE])
    cell_area = sum(views.CROP_AREA) / 2 * images.height * images.width / cells**2
    candidates: list[Candidate] = []
    for scale in _SCALES:
        if not any(one.figures.kept >= FEW for one in candidates):
            sizes = [max(int(float(f"{cell_area / part:.2g}")), 4) for part in _PARTS]
            candidates = [_try(cfg, images, scale, size) for size in sizes] + candidates
    most = max(one.figures.kept for one in candidates)
    return candidates, max(index for index, one in enumerate(candidates) if one.figures.kept >= NEARLY_ALL * most)


def _try(cfg: "d2.CfgNode", images: Images, scale: float, size: int) -> Candidate:
    generator = build_generator("fh", scale=scale * size, sigma=0.8, min_size=size)
    generator.prepare()
    some, start = images.sample[:8], time.perf_counter()
    for image in some:
        generator(image, np.random.default_rng(0))
    seconds = (time.perf_counter() - start) / len(some)
    return Candidate(generator, measure_views(view_rows(cfg, images, generator)), seconds)


def sheet_rows(cfg: "d2.CfgNode", images: Images, generator: RegionGenerator, count: int) -> list[SheetRow]:
    """Evenly spaced rows for a sheet."""
    rows = list(view_rows(cfg, images, generator))
    return [rows[index] for index in np.unique(np.linspace(0, len(rows) - 1, count).astype(int))]
