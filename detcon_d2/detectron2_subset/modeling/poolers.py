"""Features of boxes from a pyramid. Letters: M boxes of all images, L levels, C channels, S side of the result."""

import math

import torch
from torch import nn
from torchvision.ops import RoIAlign
from torchvision.ops.poolers import LevelMapper

from ..structures import Boxes

_ALIGNED = {"ROIAlign": False, "ROIAlignV2": True}


class ROIPooler(nn.Module):
    """RoIAlign (He et al., Mask R-CNN, 2017) of every box on the pyramid level that suits its size; it has no parameters.

    The level is floor(4 + log2(sqrt(area) / 224)), clipped to the existing levels; level k has stride 2^k (equation 1 of arXiv 1612.03144).
    """

    def __init__(self, output_size: int, scales: list[float], sampling_ratio: int, pooler_type: str) -> None:
        """
        Args:
            output_size: S.
            scales: 1 / stride of each level, finest first: powers of two, each half of the one before; AssertionError otherwise.
            sampling_ratio: samples per side of a bin; 0 takes as many as there are cells.
            pooler_type: "ROIAlignV2" (aligned: the centre of cell (i, j) is at (i + 0.5, j + 0.5)) or "ROIAlign"; ValueError otherwise.
        """
        super().__init__()
        if pooler_type not in _ALIGNED:
            raise ValueError(f"POOLER_TYPE is one of {', '.join(_ALIGNED)}, found {pooler_type!r}; for others install detectron2.")
        levels = [-math.log2(scale) for scale in scales]
        consecutive = levels == [int(levels[0]) + i for i in range(len(levels))]
        assert consecutive, f"Strides of pooled maps are powers of two, each twice the one before, found scales {scales}."
        self.output_size = output_size
        # An epsilon would move boxes that are slightly smaller than a canonical size to the next level.
        self.level_of = LevelMapper(int(levels[0]), int(levels[-1]), canonical_scale=224, canonical_level=4, eps=0.0)
        aligned = _ALIGNED[pooler_type]
        self.level_poolers = nn.ModuleList(RoIAlign(output_size, scale, sampling_ratio, aligned=aligned) for scale in scales)

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """L maps (N, C, h, w), finest first, and the boxes of each of N images in input pixels -> (M, C, S, S) in the order of the boxes.

        AssertionError for another number of maps or of lists of boxes.
        """
        assert len(x) == len(self.level_poolers), f"ROIPooler has {len(self.level_poolers)} levels, found {len(x)} maps."
        assert len(x[0]) == len(box_lists), f"There must be one Boxes per image, found {len(x[0])} images, {len(box_lists)} Boxes."
        if not any(map(len, box_lists)):
            return x[0].new_zeros((0, x[0].shape[1], self.output_size, self.output_size))
        rois = torch.cat([nn.functional.pad(boxes.tensor, (1, 0), value=float(image)) for image, boxes in enumerate(box_lists)])
        levels = self.level_of([boxes.tensor for boxes in box_lists])
        rows = [(levels == level).nonzero()[:, 0] for level in range(len(x))]
        pooled = torch.cat([pooler(maps, rois[own].to(maps.dtype)) for pooler, maps, own in zip(self.level_poolers, x, rows)])
        # Change the order of levels back to the order of boxes.
        return pooled[torch.cat(rows).argsort()]
