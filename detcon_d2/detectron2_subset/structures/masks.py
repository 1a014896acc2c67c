"""Instance masks as bitmaps and as polygons. Letters: N instances, image H x W, S side of a crop."""

import numpy as np
import torch
from torchvision import ops

from .boxes import Boxes

Index = int | slice | list[int] | torch.Tensor


class BitMasks:
    """``tensor``: (N, H, W) bool."""

    def __init__(self, tensor: torch.Tensor | np.ndarray) -> None:
        """(N, H, W), nonzero = inside. AssertionError for another number of dimensions."""
        tensor = torch.as_tensor(tensor).to(torch.bool)
        assert tensor.dim() == 3, f"BitMasks are of shape (N, H, W), found {tuple(tensor.shape)}."
        self.tensor = tensor
        self.image_size = tensor.shape[1:]

    def nonempty(self) -> torch.Tensor:
        """(N,) bool: the mask has a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes, x2 and y2 one past the last pixel; zeros for an empty mask."""
        profiles = [self.tensor.any(dim=dim).int() for dim in (1, 2)]
        sides = [line.argmax(dim=1) for line in profiles] + [line.shape[1] - line.flip(1).argmax(dim=1) for line in profiles]
        return Boxes(torch.stack(sides, dim=1) * self.nonempty()[:, None])

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """(N, S, S) bool: mask i inside box i ((N, 4) xyxy), by aligned RoIAlign thresholded at 0.5."""
        assert len(boxes) == len(self), f"One box a mask: {len(boxes)} boxes, {len(self)} masks."
        rois = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None].to(boxes), boxes], dim=1)
        crops = ops.roi_align(
            self.tensor[:, None].to(torch.float32), rois.to(self.tensor.device), mask_size, aligned=True, sampling_ratio=0
        )
        return crops[:, 0] >= 0.5

    def __getitem__(self, item: Index) -> "BitMasks":
        """The selected masks as BitMasks (one mask for an int); may share storage."""
        return BitMasks(self.tensor[item][None] if isinstance(item, int) else self.tensor[item])

    def __len__(self) -> int:
        return len(self.tensor)


class PolygonMasks:
    """``polygons``: one list of float64 vectors [x0, y0, x1, y1, ...] (at least three points) for each instance, in pixels."""

    def __init__(self, polygons: list[list[torch.Tensor | np.ndarray | list[float]]]) -> None:
        """ValueError for anything but a list of lists of vectors of even length >= 6."""
        if not isinstance(polygons, list) or not all(isinstance(instance, list) for instance in polygons):
            raise ValueError("PolygonMasks take a list (instances) of lists (polygons) of coordinate vectors.")
        self.polygons = [[_coordinates(polygon) for polygon in instance] for instance in polygons]

    def nonempty(self) -> torch.Tensor:
        """(N,) bool: the instance has a polygon."""
        return torch.tensor([len(instance) > 0 for instance in self.polygons], dtype=torch.bool)

    def area(self) -> torch.Tensor:
        """(N,) sums of polygon areas by the shoelace formula."""
        return torch.tensor([sum(_shoelace(*polygon.reshape(-1, 2).T) for polygon in instance) for instance in self.polygons])

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes; zeros for an instance without polygons."""
        points = [np.concatenate(instance or [np.zeros(2)]).reshape(-1, 2) for instance in self.polygons]
        return Boxes([[*xy.min(axis=0), *xy.max(axis=0)] for xy in points])

    def __getitem__(self, item: Index) -> "PolygonMasks":
        """The selected instances as PolygonMasks: an int, slice, list of ints, or a vector of integers or bools."""
        if isinstance(item, torch.Tensor):
            item = (item.nonzero().squeeze(1) if item.dtype in (torch.bool, torch.uint8) else item).tolist()
        positions = range(len(self))[item] if isinstance(item, int | slice) else item
        return PolygonMasks([self.polygons[i] for i in ([positions] if isinstance(positions, int) else positions)])

    def __len__(self) -> int:
        return len(self.polygons)


def _coordinates(polygon: torch.Tensor | np.ndarray | list[float]) -> np.ndarray:
    vector = np.asarray(polygon.cpu() if isinstance(polygon, torch.Tensor) else polygon, dtype=np.float64)
    if vector.ndim != 1 or vector.size % 2 or vector.size < 6:
        raise ValueError(f"A polygon is a vector of at least three (x, y) pairs, found shape {vector.shape}.")
    return vector


def _shoelace(x: np.ndarray, y: np.ndarray) -> float:
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
