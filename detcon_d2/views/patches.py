"""Tiles of one image for tasks about their positions (RelativePosition, Jigsaw), with what keeps shortcuts out of them; and the overlapping
patches of a view, each with its own augmentation (CPC v2).

Letters: (H, W) pixels of the image, t pixels per side of a tile, G tiles or patches per side of the grid.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from fvcore.common.config import CfgNode

from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.photometric import PhotometricAugmentation, PhotometricTransform
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.samplers import OneView, TwoViews

_ABERRATION = np.array([-1.0, 2.0, -1.0])
PROJECTION = np.eye(3) - np.outer(_ABERRATION, _ABERRATION) / (_ABERRATION @ _ABERRATION)
"""float64 (3, 3): takes the difference of green from red and blue, (-1, 2, -1), out of a colour (Doersch et al. 2015, section 3.1).

To first order it leaves red and blue apart where they are displaced in opposite directions from green.
"""
COLORS = ("none", "project", "drop")
"""Values of DETCON.PATCHES.COLOR."""


@dataclass(frozen=True)
class PatchGrid:
    """Samples a square crop of an image and G x G tiles in it, each at a random place of its cell.

    Lengths are in pixels of the image as if its shorter side were resized to ``resize``, but every tile is cut out of the image and resized
    on its own: no pixel of a tile is interpolated from a neighbouring tile, and all of an image are resized alike. Values outside these
    ranges raise a ValueError.

    Attributes:
        resize: shorter side of the image.
        crop: side of the crop, at most ``resize``.
        size: t, at most a cell, ``crop // grid``, less ``min_gap``.
        min_gap: least distance of two tiles, within a pixel, >= 0.
        flip_prob: of mirroring the image, before tiles are cut.
        interpolation: a key of ``INTERPOLATIONS``.
        grid: G.
    """

    resize: int
    crop: int
    size: int
    min_gap: int
    flip_prob: float
    interpolation: str
    grid: int = 3

    def __post_init__(self):
        cell = self.crop // self.grid
        checks = [
            (1 <= self.crop <= self.resize, "CROP", self.crop, f"1..{self.resize}, DETCON.PATCHES.RESIZE"),
            (self.min_gap >= 0, "MIN_GAP", self.min_gap, "a number of pixels >= 0"),
            (
                1 <= self.size <= cell - self.min_gap,
                "TILE",
                self.size,
                f"1..{cell - self.min_gap}: a cell of {cell} pixels (a third of DETCON.PATCHES.CROP) less MIN_GAP",
            ),
        ]
        wrong = [f"DETCON.PATCHES.{key} is {found!r}; expected {expected}." for ok, key, found, expected in checks if not ok]
        if wrong:
            raise ValueError("\n".join(wrong))

    def sample(self, rng: np.random.Generator, height: int, width: int) -> list[ViewTransform]:
        """The G * G tiles of an image of these sides in pixels, row by row as they are seen: in a mirrored image from its right side on.

        Two tiles share no pixel, unless a side of the image has fewer than G.
        """
        scale = min(height, width) / self.resize
        cell = max(int(self.crop * scale) // self.grid, 1)
        tile = min(max(round(self.size * scale), 1), cell)
        jitter = max(cell - tile - int(np.ceil(self.min_gap * scale)), 0)
        left, top = (int(rng.integers(max(side - self.grid * cell, 0) + 1)) for side in (width, height))
        offsets = rng.integers(jitter + 1, size=(self.grid, self.grid, 2))
        flip = bool(rng.random() < self.flip_prob)
        tiles = []
        for row, column in np.ndindex(self.grid, self.grid):
            x, y = left + column * cell + int(offsets[row, column, 0]), top + row * cell + int(offsets[row, column, 1])
            x, y = min(x, width - tile), min(y, height - tile)
            tiles.append(ViewTransform(width - x - tile if flip else x, y, tile, tile, flip, self.size, self.interpolation))
        return tiles


class Patches(TwoViews):
    """A grid of tiles as views, row by row, with the colours of view 1, which are the same for all tiles of an image."""

    def __init__(self, *, color: str = "none", color_prob: float = 1.0, **kwargs):
        """
        Args:
            color: one of :data:`COLORS`, against chromatic aberration, which tells where in the image a tile was. "project":
                :data:`PROJECTION`; "drop": one random channel is kept.
            color_prob: the probability of that, for all tiles of an image.
            **kwargs: as for :class:`TwoViews`, each with one entry: a :class:`PatchGrid` and its colours.

        Raises ValueError: another ``color`` or probability.
        """
        super().__init__(**kwargs)
        if color not in COLORS:
            raise ValueError(f"DETCON.PATCHES.COLOR is {color!r}; expected one of {', '.join(COLORS)}.")
        if not 0 <= color_prob <= 1:
            raise ValueError(f"DETCON.PATCHES.COLOR_PROB is {color_prob!r}; expected a probability in [0, 1].")
        self.color, self.color_prob = color, color_prob

    @classmethod
    def from_config(cls, cfg: CfgNode, stride: int | None, /, **arguments) -> "Patches":
        """Reads DETCON.PATCHES, AUG, VIEWS.FLIP_PROB, VIEWS.INTERPOLATION and SEED; errors as :meth:`TwoViews.from_config`."""
        keys = cfg.DETCON.PATCHES
        return super().from_config(cfg, stride, color=keys.COLOR, color_prob=keys.COLOR_PROB, **arguments)

    @staticmethod
    def augmentations(cfg: CfgNode) -> tuple[list[PatchGrid], list[PhotometricAugmentation]]:
        """The grid and the colours of view 1."""
        keys, views = cfg.DETCON.PATCHES, cfg.DETCON.VIEWS
        grid = PatchGrid(keys.RESIZE, keys.CROP, keys.TILE, keys.MIN_GAP, views.FLIP_PROB, views.INTERPOLATION)
        return [grid], [PhotometricAugmentation.from_config(cfg.DETCON.AUG, 0)]

    @staticmethod
    def size_key(cfg: CfgNode, size: int) -> str:
        """The key of the tiles' side."""
        return "DETCON.PATCHES.TILE"

    def sample_geometry(self, position: int, height: int, width: int) -> list[ViewTransform]:
        """The tiles of an image of this height and width in pixels at a position of the run."""
        return self.geometry[0].sample(position_rng(self.seed, position, Stream.GEOMETRY), height, width)

    def sample_photometric(self, position: int) -> list[PhotometricTransform]:
        """The same for each tile."""
        return [self.photometric[0].sample(position_rng(self.seed, position, Stream.PHOTOMETRIC))] * self.geometry[0].grid ** 2

    def sample_colors(self, position: int) -> tuple[np.ndarray, np.random.Generator]:
        """The matrix float32 (3, 3) of COLOR at a position of the run, and the generator for what a subclass samples after it."""
        rng = position_rng(self.seed, position, Stream.PRETEXT)
        applied, kept = rng.random() < self.color_prob, int(rng.integers(3))
        matrices = {"none": np.eye(3), "project": PROJECTION, "drop": np.diag(np.eye(3)[kept])}
        return matrices[self.color if applied else "none"].astype(np.float32), rng

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """The tiles as ``views``; and ``colors`` float32 (3, 3), which the model multiplies each RGB colour with, relative to its pixel
        mean. It comes after everything else and is not rounded to 8 bits, as a rest of the aberration would be left."""
        colors, _ = self.sample_colors(position)
        return super().__call__(image, label_map, position) | {"colors": torch.from_numpy(colors)}


class OverlappingPatches(OneView):
    """The patches of view 1 as views, row by row: each is mirrored by itself, has its own colours, and may have lost two channels."""

    def __init__(self, *, patch: int, step: int, drop_prob: float, **kwargs):
        """
        Args:
            patch: pixels per side of a patch, at most the view's.
            step: pixels from one patch to the next.
            drop_prob: the probability that one random channel of a patch is kept.
            **kwargs: as for :class:`OneView`.
        """
        super().__init__(**kwargs)
        self.patch, self.step, self.drop_prob = patch, step, drop_prob
        self.grid = grid_side(self.geometry[0].size, patch, step)

    def sample_patches(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each patch, bool (G * G,) whether it is mirrored and bool (G * G, 3) which channels are kept."""
        rng, count = position_rng(self.seed, position, Stream.PRETEXT), self.grid**2
        flips, drops = rng.random((2, count)) < [[self.geometry[0].flip_prob], [self.drop_prob]]
        return flips, np.where(drops[:, None], np.eye(3, dtype=bool)[rng.integers(3, size=count)], True)

    def sample_geometry(self, position: int, height: int, width: int) -> list[ViewTransform]:
        """The patches of an image of this height and width in pixels; each is cut out at whole pixels and resized on its own."""
        (view,) = super().sample_geometry(position, height, width)
        columns, width = self._spans(view.width)
        rows, height = self._spans(view.height)
        if view.flip:
            columns = [view.width - width - left for left in columns]
        places = [{"x0": view.x0 + left, "y0": view.y0 + top, "width": width, "height": height} for top in rows for left in columns]
        flips = view.flip ^ self.sample_patches(position)[0]
        return [replace(view, **place, flip=bool(flip), size=self.patch) for place, flip in zip(places, flips, strict=True)]

    def _spans(self, length: int) -> tuple[list[int], int]:
        """Starts and length of the patches along a side of the crop, in its pixels."""
        scale = length / self.geometry[0].size
        side = max(round(self.patch * scale), 1)
        return [min(round(number * self.step * scale), length - side) for number in range(self.grid)], side

    def sample_photometric(self, position: int) -> list[PhotometricTransform]:
        """One for each patch."""
        rng = position_rng(self.seed, position, Stream.PHOTOMETRIC)
        return [self.photometric[0].sample(rng) for _ in range(self.grid**2)]

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """The patches as ``views``, and ``channels`` bool (G * G, 3): those that the model keeps of each."""
        return super().__call__(image, label_map, position) | {"channels": torch.from_numpy(self.sample_patches(position)[1])}


def grid_side(size: int, patch: int, step: int) -> int:
    """G of patches of ``patch`` pixels at distances of ``step`` in a view of ``size``."""
    return (size - patch) // step + 1
