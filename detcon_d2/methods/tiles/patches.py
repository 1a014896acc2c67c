"""What tasks on the tiles of an image share: their keys, colours and normalisation, and the features of each tile.

Letters: N images per process, T tiles of each, C feature channels, t pixels per side of a tile.
"""

from typing import ClassVar

import torch

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.views.patches import Patches
from detcon_d2.views.samplers import SampleMaker

NORMALIZATIONS = ("tile", "none")
"""Values of DETCON.PATCHES.NORMALIZE."""


class PatchModel(PretrainingModel):
    """Base of methods whose views are tiles. All tiles go through the encoder as one batch."""

    Samples: ClassVar[type[SampleMaker]] = Patches

    def __init__(self, *, normalize: str = "tile", **kwargs):
        """
        Args:
            normalize: one of :data:`NORMALIZATIONS`. "tile": each tile has mean 0 and variance 1 over its pixels and channels, so that its
                brightness and contrast do not tell where it was; "none": the pixel statistics alone.
            **kwargs: as for :class:`PretrainingModel`.
        """
        super().__init__(**kwargs)
        self.normalize = normalize

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """The keys of all methods on tiles; flip, interpolation and colours are those of view 1."""
        node.PATCHES = d2.CfgNode()
        # The shorter side of the image is resized to RESIZE, a random square of side CROP is divided into 3 x 3 cells, and each cell has a
        # tile of side TILE at a random place (Noroozi and Favaro 2016; sizes of google/revisiting-self-supervised and MMSelfSup).
        node.PATCHES.RESIZE = 292
        node.PATCHES.CROP = 255
        node.PATCHES.TILE = 64
        # Least gap between tiles, so that lines do not simply continue; Doersch et al. (2015) had 34 to 62 pixels between tiles of 96.
        node.PATCHES.MIN_GAP = 0
        # Against chromatic aberration: "project" takes green's difference from red and blue out, "drop" keeps one channel, "none". The
        # others' grey images are DETCON.AUG.GRAY_PROB.
        node.PATCHES.COLOR = "none"
        # Share of the images to which COLOR is applied.
        node.PATCHES.COLOR_PROB = 1.0
        # "tile": each tile has mean 0 and variance 1; "none": the pixel statistics alone.
        node.PATCHES.NORMALIZE = "tile"

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of the keys that the samples do not check."""
        found = cfg.DETCON.PATCHES.NORMALIZE
        return [(found in NORMALIZATIONS, "DETCON.PATCHES.NORMALIZE", found, " or ".join(map(repr, NORMALIZATIONS)))]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        return super().from_config(cfg) | {"normalize": cfg.DETCON.PATCHES.NORMALIZE}

    def tiles_of(self, batch: list[dict]) -> torch.Tensor:
        """(N, T, 3, t, t) float32: the tiles with the sample's change of colours, normalised."""
        colors = self.to_device(torch.stack([sample["colors"] for sample in batch]))
        # In float32: half precision would bring a rest of the aberration back.
        with torch.autocast(colors.device.type, enabled=False):
            tiles = torch.stack(self.images_of(batch), dim=1) * self.pixel_std
            tiles = torch.einsum("nij,ntjhw->ntihw", colors, tiles)
            return standardise(tiles) if self.normalize == "tile" else tiles / self.pixel_std

    def pooled_tiles(self, tiles: torch.Tensor) -> torch.Tensor:
        """(N, T, 3, t, t) to the mean over the cells of each tile, (N, T, C)."""
        images = tiles.flatten(0, 1).contiguous(memory_format=self.memory_format)
        return self.encoder(images)[self.in_feature].mean((2, 3)).unflatten(0, tiles.shape[:2])


def standardise(tiles: torch.Tensor) -> torch.Tensor:
    """Tiles (..., 3, t, t) on the scale 0..255 to mean 0 and variance 1 each, over pixels and channels.

    The standard deviation counts as at least 1 / sqrt(3 t t), as in TensorFlow's ``per_image_standardization``, so that a constant tile
    becomes 0.
    """
    values = tiles.flatten(-3)
    centred = values - values.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True).sqrt().clamp(min=values.shape[-1] ** -0.5)
    return (centred / spread).view_as(tiles)
