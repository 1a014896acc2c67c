"""The base class of backbones."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from ...layers import ShapeSpec


class Backbone(nn.Module, ABC):
    """A network from images to named feature maps.

    Subclasses set ``_out_features`` (names), ``_out_feature_channels`` and ``_out_feature_strides`` (name -> int), or override
    :meth:`output_shape`.
    """

    @abstractmethod
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, C, H, W) -> name -> features."""

    @property
    def size_divisibility(self) -> int:
        """Input height and width must be multiples of this number; 0: any size."""
        return 0

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature map."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {name: ShapeSpec(channels=channels[name], stride=strides[name]) for name in self._out_features}
