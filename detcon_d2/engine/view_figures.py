"""Metrics of the views that show whether colours, crops and regions suit the images; and what to change where they do not."""

import logging
from dataclasses import dataclass, field
from typing import NamedTuple

from detcon_d2 import d2

logger = logging.getLogger(__name__)

CONSTANT_LIMIT = 0.1
"""Share of nearly constant views above which a run is warned. Photographs have 0 to 1 %; dark microscopy under DetCon_B's colours 16 %."""
LOST_LIMIT = 2 / 3
"""Share of a view's regions without a cell above which a run is warned. Measured: 42 % on photographs of COCO with the published config,
52 % in the quickstart, 57 % on nuclei of 14 px in 128 px tiles with 5 x 5 cells.
"""
_ENOUGH_IMAGES = 128


class ViewFigures(NamedTuple):
    """Means over views; None: unknown, or without regions.

    Attributes:
        constant: share of nearly constant views (:func:`detcon_d2.modeling.metrics.constant_views`).
        constant_crops: the same of the crops, before their colours change.
        regions: regions with a pixel in the view.
        kept: regions with a cell of the feature grid; only these are contrasted.
    """

    constant: float
    constant_crops: float | None = None
    regions: float | None = None
    kept: float | None = None

    @property
    def lost(self) -> float:
        """Share of the regions that lose all their cells."""
        return 1 - self.kept / self.regions if self.regions else 0.0

    def line(self) -> str:
        """The figures in words."""
        crops = "" if self.constant_crops is None else f" ({self.constant_crops:.1%} before their colours change)"
        regions = (
            "" if self.regions is None else f"; regions per view: {self.regions:.1f}, {self.kept:.1f} with a cell ({self.lost:.0%} lost)"
        )
        return f"nearly constant views: {self.constant:.1%}{crops}{regions}"


def view_warnings(figures: ViewFigures, cfg: "d2.CfgNode") -> list[str]:
    """What is wrong with views of a pretraining config, and the key that mends it: a sentence each."""
    aug, masks, lines = cfg.DETCON.AUG, cfg.DETCON.MASKS, []
    if figures.constant > CONSTANT_LIMIT:
        text = f"{figures.constant:.0%} of the views are nearly constant, so that nothing can be learned from them."
        if figures.constant_crops is not None and 2 * figures.constant_crops > figures.constant:
            text += " Most of them are crops of empty places: raise the first value of DETCON.VIEWS.CROP_AREA, or leave empty images out."
        elif aug.OPERATORS == "dm_pix":
            text += (
                " DETCON.AUG.OPERATORS dm_pix adds to the brightness; torchvision multiplies it, which keeps the contrast of dark images."
            )
        else:
            text += f" Lower DETCON.AUG.BRIGHTNESS ({aug.BRIGHTNESS:g}) and DETCON.AUG.CONTRAST ({aug.CONTRAST:g})."
        lines.append(text)
    if figures.lost > LOST_LIMIT:
        remedy = "lower DETCON.MASKS.GRID" if masks.SOURCE == "grid" else "make larger regions (generate_masks --scale and --min-size)"
        lines.append(
            f"{figures.lost:.0%} of the regions in a view ({figures.regions:.1f}) lose all their cells: raise DETCON.VIEWS.SIZE "
            f"({cfg.DETCON.VIEWS.SIZE}), or {remedy}."
        )
    elif figures.kept is not None and figures.kept < 2 and not (masks.SOURCE == "grid" and masks.GRID == 1):
        remedy = "raise DETCON.MASKS.GRID" if masks.SOURCE == "grid" else "make smaller regions (generate_masks --scale and --min-size)"
        lines.append(f"A view has {figures.kept:.1f} regions, so that hardly any are contrasted within an image: {remedy}.")
    return lines


@dataclass(eq=False)
class ViewWarningsHook(d2.HookBase):
    """Logs :func:`view_warnings` once, as soon as the metrics of the log cover enough images. It comes before the writers.

    Attributes:
        cfg: of the run.
    """

    cfg: "d2.CfgNode"
    _seen: int = field(default=0, init=False)

    def after_step(self) -> None:
        """Warn once."""
        if self._seen >= _ENOUGH_IMAGES or (self.trainer.iter + 1) % self.cfg.DETCON.LOG_PERIOD:
            return
        self._seen += self.cfg.SOLVER.IMS_PER_BATCH // d2.comm.get_world_size()
        if self._seen < _ENOUGH_IMAGES:
            return
        histories = self.trainer.storage.histories()

        def mean(name: str) -> float | None:
            return histories[f"learning/{name}"].global_avg() if f"learning/{name}" in histories else None

        figures = ViewFigures(mean("constant_views") or 0.0, None, mean("regions_in_pixels"), mean("regions_per_view"))
        for line in view_warnings(figures, self.cfg):
            logger.warning("%s tools/visualize_views.py shows the views.", line)
