"""Feature pyramid network (Lin et al., arXiv 1612.03144). Letters: N images, C channels, H x W the input."""

import math

import torch
from fvcore.nn import weight_init
from torch import nn

from ...config import CfgNode
from ...layers import Conv2d, ShapeSpec, get_norm
from .backbone import Backbone
from .build import BACKBONE_REGISTRY
from .resnet import build_resnet_backbone


class LastLevelMaxPool(nn.Module):
    """The level "p6", which the anchors of 512 pixels of Faster R-CNN use: every second cell of "p5"."""

    num_levels = 1
    in_feature = "p5"

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(N, C, h, w) -> one map (N, C, ceil(h / 2), ceil(w / 2))."""
        return [nn.functional.max_pool2d(x, kernel_size=1, stride=2)]


class FPN(Backbone):
    """Maps "p2", "p3", ... with equal numbers of channels; map "p{k}" has stride 2^k.

    p_k = output_k(m_k) with m_k = lateral_k(bottom_up_k) + upsample(m_{k+1}), from the coarsest input to the finest; the sum is halved if
    ``fuse_type`` is "avg". Parameters: ``fpn_lateral{k}`` (1x1), ``fpn_output{k}`` (3x3), ``bottom_up.*``.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str] | tuple[str, ...],
        out_channels: int,
        norm: str | type[nn.Module] = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
    ) -> None:
        """
        Args:
            bottom_up: the backbone below the pyramid.
            in_features: maps of ``bottom_up``, finest first; the stride of each is twice the stride of the one before.
            out_channels: channels of every map of the pyramid.
            norm: see :func:`layers.get_norm`.
            top_block: a module with ``num_levels`` and ``in_feature`` (a name of ``bottom_up`` or of the pyramid) that returns a list of
                coarser maps.
            fuse_type: "sum" or "avg".

        AssertionError for no features, other strides or fuse types, KeyError for a feature that ``bottom_up`` does not have.
        """
        super().__init__()
        inputs = bottom_up.output_shape()
        strides = [inputs[name].stride for name in in_features]
        assert strides and strides == [strides[0] << i for i in range(len(strides))], f"MODEL.FPN.IN_FEATURES: strides {strides} not x 2."
        assert fuse_type in ("sum", "avg"), f"MODEL.FPN.FUSE_TYPE is 'sum' or 'avg', found {fuse_type!r}."
        self._levels = {int(math.log2(stride)): name for name, stride in zip(in_features, strides)}
        for level, name in self._levels.items():
            self.add_module(f"fpn_lateral{level}", _conv(inputs[name].channels, out_channels, 1, norm))
            self.add_module(f"fpn_output{level}", _conv(out_channels, out_channels, 3, norm))
        self.top_block, self.bottom_up, self.in_features = top_block, bottom_up, tuple(in_features)
        self._scale, self._size_divisibility = {"sum": 1.0, "avg": 0.5}[fuse_type], strides[-1]
        count = len(strides) + getattr(top_block, "num_levels", 0)
        self._out_feature_strides = {f"p{level}": 2**level for level in range(min(self._levels), min(self._levels) + count)}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        """The stride of the coarsest map of ``bottom_up``."""
        return self._size_divisibility

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, C, H, W), sides multiples of :attr:`size_divisibility` -> name -> (N, out_channels, H / stride, W / stride)."""
        features, maps, merged = self.bottom_up(x), {}, None
        for level, name in reversed(self._levels.items()):
            coarser, merged = merged, self.get_submodule(f"fpn_lateral{level}")(features[name])
            if coarser is not None:
                merged = (merged + nn.functional.interpolate(coarser, scale_factor=2.0, mode="nearest")) * self._scale
            maps[f"p{level}"] = self.get_submodule(f"fpn_output{level}")(merged)
        if self.top_block is not None:
            extra = self.top_block((features | maps)[self.top_block.in_feature])
            maps |= zip(self._out_features[len(self._levels) :], extra)
        return {name: maps[name] for name in self._out_features}


def _conv(in_channels: int, out_channels: int, kernel: int, norm: str | type[nn.Module]) -> Conv2d:
    """Return a convolution that keeps the size, with Xavier initialisation, and with a bias if there is no norm."""
    conv = Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=not norm, norm=get_norm(norm, out_channels))
    weight_init.c2_xavier_fill(conv)
    return conv


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build the pyramid of ``MODEL.FPN`` on the ResNet of ``MODEL.RESNETS``, with "p6" by :class:`LastLevelMaxPool`."""
    options, bottom_up = cfg.MODEL.FPN, build_resnet_backbone(cfg, input_shape)
    return FPN(bottom_up, options.IN_FEATURES, options.OUT_CHANNELS, options.NORM, LastLevelMaxPool(), options.FUSE_TYPE)
