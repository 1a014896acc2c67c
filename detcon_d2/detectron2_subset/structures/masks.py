"""Instance masks as bitmaps and as polygons. Letters: N instances, image H x W, S side of a crop."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision import ops

from .boxes import Boxes

Index = int | slice | list[int] | torch.Tensor


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Return (H, W) bool: the union of polygons [x0, y0, x1, y1, ...], rasterised by pycocotools; all False without polygons."""
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    parts = coco_mask.frPyObjects([np.asarray(polygon, dtype=np.float64).tolist() for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


class BitMasks:
    """``tensor``: (N, H, W) bool."""

    def __init__(self, tensor: torch.Tensor | np.ndarray) -> None:
        """``tensor``: (N, H, W), nonzero inside the instance. AssertionError for another number of dimensions."""
        tensor = torch.as_tensor(tensor).to(torch.bool)
        assert tensor.dim() == 3, f"BitMasks are of shape (N, H, W), found {tuple(tensor.shape)}."
        self.tensor = tensor
        self.image_size = tensor.shape[1:]

    def to(self, *args: Any, **kwargs: Any) -> "BitMasks":
        """Return the masks on another device."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    def nonempty(self) -> torch.Tensor:
        """Return (N,) bool: the mask has a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    def get_bounding_boxes(self) -> Boxes:
        """Return tight boxes, with x2 and y2 one past the last pixel; zeros for an empty mask."""
        profiles = [self.tensor.any(dim=dim).int() for dim in (1, 2)]
        sides = [line.argmax(dim=1) for line in profiles] + [line.shape[1] - line.flip(1).argmax(dim=1) for line in profiles]
        return Boxes(torch.stack(sides, dim=1) * self.nonempty()[:, None])

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Return (N, S, S) bool: mask i inside box i ((N, 4) xyxy), by aligned RoIAlign with threshold 0.5."""
        assert len(boxes) == len(self), f"There must be one box per mask, found {len(boxes)} boxes, {len(self)} masks."
        rois = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None].to(boxes), boxes], dim=1)
        crops = ops.roi_align(
            self.tensor[:, None].to(torch.float32), rois.to(self.tensor.device), mask_size, aligned=True, sampling_ratio=0
        )
        return crops[:, 0] >= 0.5

    def __getitem__(self, item: Index) -> "BitMasks":
        """Return the selected masks, which may share storage; an int selects one mask."""
        return BitMasks(self.tensor[item][None] if isinstance(item, int) else self.tensor[item])

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.tensor)

    def __len__(self) -> int:
        return len(self.tensor)


class PolygonMasks:
    """``polygons``: for each instance a list of float64 vectors [x0, y0, x1, y1, ...] (at least three points), in pixels."""

    def __init__(self, polygons: list[list[torch.Tensor | np.ndarray | list[float]]]) -> None:
        """ValueError for anything but a list of lists of vectors of even length >= 6."""
        if not isinstance(polygons, list) or not all(isinstance(instance, list) for instance in polygons):
            raise ValueError("PolygonMasks take a list (instances) of lists (polygons) of coordinate vectors.")
        self.polygons = [[_coordinates(polygon) for polygon in instance] for instance in polygons]

    def to(self, *args: Any, **kwargs: Any) -> "PolygonMasks":
        """Return the masks themselves: polygons stay in main memory."""
        return self

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Return (N, S, S) bool on the device of ``boxes``: instance i inside box i ((N, 4) xyxy), on a grid of S x S cells in the box."""
        assert len(boxes) == len(self), f"There must be one box per mask, found {len(boxes)} boxes, {len(self)} masks."
        crops = np.zeros((len(self), mask_size, mask_size), dtype=bool)
        for crop, instance, box in zip(crops, self.polygons, boxes.float().cpu().numpy()):
            # Limits the enlargement of boxes that are thinner than a tenth of a pixel.
            grid = mask_size / np.maximum(box[2:] - box[:2], 0.1)
            shifted = [((polygon.reshape(-1, 2) - box[:2]) * grid).ravel() for polygon in instance]
            crop[:] = polygons_to_bitmask(shifted, mask_size, mask_size)
        return torch.from_numpy(crops).to(boxes.device)

    def nonempty(self) -> torch.Tensor:
        """Return (N,) bool: the instance has a polygon."""
        return torch.tensor([len(instance) > 0 for instance in self.polygons], dtype=torch.bool)

    def get_bounding_boxes(self) -> Boxes:
        """Return tight boxes; zeros for an instance without polygons."""
        points = [np.concatenate(instance or [np.zeros(2)]).reshape(-1, 2) for instance in self.polygons]
        return Boxes([[*xy.min(axis=0), *xy.max(axis=0)] for xy in points])

    def __getitem__(self, item: Index) -> "PolygonMasks":
        """Return the selected instances: ``item`` is an int, a slice, a list of ints, or a vector of integers or bools."""
        if isinstance(item, torch.Tensor):
            item = (item.nonzero().squeeze(1) if item.dtype in (torch.bool, torch.uint8) else item).tolist()
        positions = range(len(self))[item] if isinstance(item, int | slice) else item
        return PolygonMasks([self.polygons[i] for i in ([positions] if isinstance(positions, int) else positions)])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)

    def __len__(self) -> int:
        return len(self.polygons)


def _coordinates(polygon: torch.Tensor | np.ndarray | list[float]) -> np.ndarray:
    vector = np.asarray(polygon.cpu() if isinstance(polygon, torch.Tensor) else polygon, dtype=np.float64)
    if vector.ndim != 1 or vector.size % 2 or vector.size < 6:
        raise ValueError(f"A polygon is a vector of at least three (x, y) pairs, found shape {vector.shape}.")
    return vector
