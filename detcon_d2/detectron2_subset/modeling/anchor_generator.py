"""Anchors: boxes of fixed sizes and shapes at every cell of the feature maps. Letters: L maps of H x W cells, A anchors per cell."""

from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.registry import Registry
from torch import nn

from ..config import CfgNode, configurable
from ..layers import ShapeSpec
from ..structures import Boxes

Lists = Sequence[Sequence[float]] | Sequence[float]

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")
ANCHOR_GENERATOR_REGISTRY.__doc__ = "Anchor generators, called as ``X(cfg, input_shape: list[ShapeSpec])``; MODEL.ANCHOR_GENERATOR.NAME."


def build_anchor_generator(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """Build the generator ``MODEL.ANCHOR_GENERATOR.NAME`` for feature maps of ``input_shape``. KeyError for an unknown name."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Axis-aligned anchors around a point of each cell (Ren et al., Faster R-CNN, 2015)."""

    @configurable
    def __init__(self, *, sizes: Lists, aspect_ratios: Lists, strides: Sequence[int], offset: float = 0.5) -> None:
        """
        Args:
            sizes: square roots of the areas, in pixels; one list per map, or one list for all maps.
            aspect_ratios: height / width, in the same form.
            strides: pixels per cell, for each map.
            offset: the position of the centre in the cell, in [0, 1); 0 is the top left corner.

        AssertionError for another offset, or another number of lists than maps.
        """
        super().__init__()
        assert 0.0 <= offset < 1.0, f"The offset of anchors is in [0, 1), found {offset}."
        self.strides = list(strides)
        self.offset = offset
        levels = [_one_list_per_map(values, len(self.strides)) for values in (sizes, aspect_ratios)]
        for index, (level_sizes, level_ratios) in enumerate(zip(*levels)):
            # Not persistent: checkpoints contain no anchors.
            self.register_buffer(f"_cell_anchors{index}", _cell_anchors(level_sizes, level_ratios), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Read ``cfg.MODEL.ANCHOR_GENERATOR``."""
        node = cfg.MODEL.ANCHOR_GENERATOR
        strides = [shape.stride for shape in input_shape]
        return {"sizes": node.SIZES, "aspect_ratios": node.ASPECT_RATIOS, "strides": strides, "offset": node.OFFSET}

    @property
    def cell_anchors(self) -> list[torch.Tensor]:
        """(A, 4) for each map."""
        return [getattr(self, f"_cell_anchors{index}") for index in range(len(self.strides))]

    @property
    def num_anchors(self) -> list[int]:
        """A for each map."""
        return [len(anchors) for anchors in self.cell_anchors]

    def forward(self, features: list[torch.Tensor]) -> list[Boxes]:
        """L maps (N, C, H, W) -> L Boxes of H x W x A anchors. The anchor index varies fastest, then the column, then the row."""
        return [
            Boxes((_centers(feature, stride, self.offset)[:, None] + anchors).flatten(0, 1))
            for feature, stride, anchors in zip(features, self.strides, self.cell_anchors, strict=True)
        ]


def _cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> torch.Tensor:
    """Return (A, 4) xyxy anchors around (0, 0), A = sizes x ratios; the ratio varies fastest."""
    size, ratio = torch.meshgrid(*(torch.tensor(values, dtype=torch.float64) for values in (sizes, aspect_ratios)), indexing="ij")
    width = (size.square() / ratio).sqrt().flatten()
    corner = torch.stack([width, ratio.flatten() * width], dim=1) / 2
    return torch.cat([-corner, corner], dim=1).to(torch.float32)


def _one_list_per_map(values: Lists, maps: int) -> Sequence[Sequence[float]]:
    lists = values if isinstance(values[0], Sequence) else [values]
    lists = list(lists) * maps if len(lists) == 1 else lists
    assert len(lists) == maps, f"Anchors need one list of sizes and ratios for each of {maps} feature maps, or one for all; found {values}."
    return lists


def _centers(feature: torch.Tensor, stride: int, offset: float) -> torch.Tensor:
    """Return (HW, 4) float32: (x, y, x, y) of the centres of the anchors."""
    rows, columns = ((torch.arange(side, dtype=torch.float32, device=feature.device) + offset) * stride for side in feature.shape[-2:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y, x, y], dim=-1).flatten(0, 1)
