"""What one module tells the next of the tensors it makes."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """Shape of a feature map, as far as known: channels, height and width in cells, stride in input pixels."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
