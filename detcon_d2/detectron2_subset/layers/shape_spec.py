"""The shape of the tensors that one module passes to the next."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """The shape of a feature map, as far as it is known: channels, height and width in cells, stride in input pixels."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
