"""Axis-aligned boxes, based on torchvision.ops. Letters: N boxes."""

from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np
import torch
from torchvision import ops

RawBoxes = list[float] | tuple[float, ...] | torch.Tensor | np.ndarray


class BoxMode(IntEnum):
    """The meaning of the four (or, with an angle, five) numbers of a box. Absolute modes are in pixels, relative modes in [0, 1]."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box: RawBoxes, from_mode: "BoxMode", to_mode: "BoxMode") -> RawBoxes:
        """Return ``box``, four numbers or an (N, 4) array, in ``to_mode``, as a new object of the same type (or ``box`` itself if the
        modes are equal). Python sequences are rounded to float32, as in Detectron2.

        NotImplementedError for other modes than XYXY_ABS and XYWH_ABS, AssertionError for a sequence that is not one box.
        """
        if from_mode == to_mode:
            return box
        if not {from_mode, to_mode} <= _FORMATS.keys():
            raise NotImplementedError("Relative and rotated box modes are not in the subset; install detectron2")
        old, new = _FORMATS[from_mode], _FORMATS[to_mode]
        if isinstance(box, list | tuple):
            assert len(box) == 4, f"BoxMode.convert takes 4 numbers or an (N, 4) array, found a sequence of length {len(box)}."
            return type(box)(ops.box_convert(torch.tensor(box), old, new).tolist())
        converted = ops.box_convert(torch.as_tensor(box), old, new)
        return converted.numpy() if isinstance(box, np.ndarray) else converted


_FORMATS = {BoxMode.XYXY_ABS: "xyxy", BoxMode.XYWH_ABS: "xywh"}


class Boxes:
    """``tensor``: (N, 4) float32, rows (x1, y1, x2, y2) in pixels."""

    def __init__(self, tensor: torch.Tensor | np.ndarray | Sequence[Sequence[float]]) -> None:
        """``tensor``: anything that converts to (N, 4) float32; an empty tensor of any shape is zero boxes. AssertionError otherwise."""
        tensor = torch.as_tensor(tensor)
        tensor = tensor.to(torch.float32) if tensor.numel() else tensor.new_zeros((0, 4), dtype=torch.float32)
        assert tensor.dim() == 2 and tensor.shape[1] == 4, f"Boxes are of shape (N, 4), found {tuple(tensor.shape)}."
        self.tensor = tensor

    def to(self, device: torch.device | str) -> "Boxes":
        """Return the boxes on another device."""
        return Boxes(self.tensor.to(device=device))

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip in place to x in [0, width], y in [0, height], ``box_size`` = (height, width). AssertionError for NaN or infinity."""
        assert torch.isfinite(self.tensor).all(), "Boxes to be clipped contain infinite or NaN values."
        self.tensor = ops.clip_boxes_to_image(self.tensor, box_size)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """Return (N,) bool: width and height are both larger than ``threshold``."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """Return (N,) bool: x1, y1 >= -threshold and x2 < width + threshold, y2 < height + threshold, ``box_size`` = (height, width)."""
        limit = self.tensor.new_tensor(box_size[::-1]) + boundary_threshold
        return ((self.tensor[:, :2] >= -boundary_threshold) & (self.tensor[:, 2:] < limit)).all(dim=1)

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply x and y coordinates in place."""
        self.tensor *= self.tensor.new_tensor([scale_x, scale_y, scale_x, scale_y])

    @classmethod
    def cat(cls, boxes_list: list["Boxes"]) -> "Boxes":
        """Return all boxes of a list, in order; an empty list gives zero boxes."""
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]) if boxes_list else [])

    def __getitem__(self, item: int | slice | torch.Tensor | list[int]) -> "Boxes":
        """Return the selected boxes, which may share storage; an int selects one box. AssertionError if the result is not a matrix."""
        rows = self.tensor[[item]] if isinstance(item, int) else self.tensor[item]
        assert rows.dim() == 2, f"Indexing Boxes with {item} gives shape {tuple(rows.shape)}, not (M, 4)."
        return Boxes(rows)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.tensor)

    def __len__(self) -> int:
        return len(self.tensor)

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Return (N, M) intersection over union of all pairs; 0 if both boxes are empty (torchvision returns NaN)."""
    return ops.box_iou(boxes1.tensor, boxes2.tensor).nan_to_num(0.0)
