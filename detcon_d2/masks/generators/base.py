"""What every region generator is: an image in, one or several maps of region ids out.

A generator is a class with keyword parameters and

    params() -> dict                                     what determines its output, plain values; stored beside the label maps
    __call__(image, rng, record=None) -> label map       uint8 (H, W, 3) RGB, NumPy Generator, dataset dict -> uint16 (H, W)
    advice(height, width) -> str | None                  parameters to try where the median image has too few regions

For those that read the record's COCO annotations ``needs_annotations = True``; those that keep several label maps an image have
``layers > 1`` and return uint16 (layers, H, W). Two things more, where they are wanted: ``HELP``, a line for each parameter (the command
line has a flag for every one), and ``prepare()``, called once before there are worker processes.
"""

from typing import Protocol

import numpy as np

from detcon_d2.masks.cells import NO_REGION


class RegionGenerator(Protocol):
    """What every entry of ``REGION_GENERATOR_REGISTRY`` makes; see ``generators``."""

    name: str
    needs_annotations: bool
    layers: int

    def params(self) -> dict: ...

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray: ...

    def advice(self, height: int, width: int) -> str | None: ...


def to_label_map(ids: np.ndarray) -> np.ndarray:
    """Ids 0..65534 as uint16, unchanged; raises ValueError where they would wrap around."""
    if ids.max() >= NO_REGION:
        raise ValueError(f"found {int(ids.max()) + 1} regions; expected at most {NO_REGION}: choose parameters that give larger regions")
    return ids.astype(np.uint16)
