"""Anchors: boxes of fixed sizes and shapes at every cell of the feature maps. Letters: L maps of H x W cells, A anchors a cell."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..config import CfgNode, configurable
from ..layers import ShapeSpec
from ..structures import Boxes
from ..utils.registry import Registry

Lists = Sequence[Sequence[float]] | Sequence[float]

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")
ANCHOR_GENERATOR_REGISTRY.__doc__ = "Anchor generators, called as ``X(cfg, input_shape: list[ShapeSpec])``; MODEL.ANCHOR_GENERATOR.NAME."


def build_anchor_generator(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """The generator ``MODEL.ANCHOR_GENERATOR.NAME`` for feature maps of ``input_shape``. KeyError for an unknown name."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Axis-aligned anchors around a point of each cell (Ren et al., Faster R-CNN, 2015)."""

    box_dim = 4
    """Numbers that describe an anchor."""

    @configurable
    def __init__(self, *, sizes: Lists, aspect_ratios: Lists, strides: Sequence[int], offset: float = 0.5) -> None:
        """``sizes`` (square root of the area, in pixels) and ``aspect_ratios`` (height / width): one list a map, or one list for all.

        ``strides``: pixels a cell, for each map; ``offset`` in [0, 1): where in the cell the centre is, 0 = top left corner. AssertionError
        for another offset, or another number of lists than maps.
        """
        super().__init__()
        assert 0.0 <= offset < 1.0, f"The offset of anchors lies in [0, 1), found {offset}."
        self.strides = list(strides)
        self.offset = offset
        levels = [_one_list_a_map(values, len(self.strides)) for values in (sizes, aspect_ratios)]
        for index, (level_sizes, level_ratios) in enumerate(zip(*levels)):
            # Not persistent: checkpoints hold no anchors.
            self.register_buffer(f"_cell_anchors{index}", self.generate_cell_anchors(level_sizes, level_ratios), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """The arguments that ``cfg.MODEL.ANCHOR_GENERATOR`` stands for."""
        node = cfg.MODEL.ANCHOR_GENERATOR
        strides = [shape.stride for shape in input_shape]
        return {"sizes": node.SIZES, "aspect_ratios": node.ASPECT_RATIOS, "strides": strides, "offset": node.OFFSET}

    @staticmethod
    def generate_cell_anchors(
        sizes: Sequence[float] = (32, 64, 128, 256, 512), aspect_ratios: Sequence[float] = (0.5, 1, 2)
    ) -> torch.Tensor:
        """(A, 4) xyxy anchors around (0, 0), A = sizes x ratios, ratios varying fastest."""
        size, ratio = torch.meshgrid(*(torch.tensor(values, dtype=torch.float64) for values in (sizes, aspect_ratios)), indexing="ij")
        width = (size.square() / ratio).sqrt().flatten()
        corner = torch.stack([width, ratio.flatten() * width], dim=1) / 2
        return torch.cat([-corner, corner], dim=1).to(torch.float32)

    @property
    def cell_anchors(self) -> list[torch.Tensor]:
        """(A, 4) for each map."""
        return [getattr(self, f"_cell_anchors{index}") for index in range(len(self.strides))]

    @property
    def num_anchors(self) -> list[int]:
        """A for each map."""
        return [len(anchors) for anchors in self.cell_anchors]

    def forward(self, features: list[torch.Tensor]) -> list[Boxes]:
        """L maps (N, C, H, W) -> L Boxes of H x W x A anchors, which vary fastest, then columns, then rows."""
        return [
            Boxes((_centers(feature, stride, self.offset)[:, None] + anchors).flatten(0, 1))
            for feature, stride, anchors in zip(features, self.strides, self.cell_anchors, strict=True)
        ]


def _one_list_a_map(values: Lists, maps: int) -> Sequence[Sequence[float]]:
    lists = values if isinstance(values[0], Sequence) else [values]
    lists = list(lists) * maps if len(lists) == 1 else lists
    assert len(lists) == maps, f"Anchors need one list of sizes and ratios for each of {maps} feature maps, or one for all; found {values}."
    return lists


def _centers(feature: torch.Tensor, stride: int, offset: float) -> torch.Tensor:
    """(HW, 4) float32: (x, y, x, y) of the anchors' centres."""
    rows, columns = ((torch.arange(side, dtype=torch.float32, device=feature.device) + offset) * stride for side in feature.shape[-2:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y, x, y], dim=-1).flatten(0, 1)
