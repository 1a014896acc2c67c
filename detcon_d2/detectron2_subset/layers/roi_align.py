"""RoIAlign as a module. Letters: N images, C channels, a map H x W, K boxes, S side of a crop."""

import torch
from torch import nn
from torchvision import ops


class ROIAlign(nn.Module):
    """Bilinear samples of a feature map on a regular grid in each box, averaged in S x S bins (He et al., Mask R-CNN, 2017)."""

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool = True) -> None:
        """``spatial_scale``: cells a pixel; ``sampling_ratio``: samples along a side of a bin, 0 = as many as cells.

        ``aligned``: the centre of cell (i, j) lies at (i + 0.5, j + 0.5), and boxes may be smaller than a cell.
        """
        super().__init__()
        self.output_size, self.spatial_scale = output_size, spatial_scale
        self.sampling_ratio, self.aligned = sampling_ratio, aligned

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (K, 5) rows (image, x1, y1, x2, y2) in pixels -> (K, C, S, S). AssertionError for other rows."""
        assert rois.dim() == 2 and rois.shape[1] == 5, f"rois are of shape (K, 5), found {tuple(rois.shape)}."
        return ops.roi_align(input, rois.to(input.dtype), self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        """Shown by ``repr``."""
        names = ("output_size", "spatial_scale", "sampling_ratio", "aligned")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)
