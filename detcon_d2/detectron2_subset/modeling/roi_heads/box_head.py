"""From the pooled features of a box to one vector. Letters: R boxes, C channels, S side of the pooled map."""

import math

from fvcore.common.registry import Registry
from fvcore.nn import weight_init
from torch import nn

from ...config import CfgNode, configurable
from ...layers import Conv2d, ShapeSpec, get_norm

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")
"""Box heads, called as ``head(cfg, input_shape)``; named by ``MODEL.ROI_BOX_HEAD.NAME``."""


def conv_norm_relu(in_channels: int, out_channels: int, norm: str | type[nn.Module]) -> Conv2d:
    """Return a 3x3 convolution that keeps the size, with MSRA initialisation, and with a bias if there is no norm."""
    conv = Conv2d(in_channels, out_channels, 3, padding=1, bias=not norm, norm=get_norm(norm, out_channels), activation=nn.ReLU())
    weight_init.c2_msra_fill(conv)
    return conv


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions (``conv1``, ...), each with norm and ReLU, then fully connected layers (``fc1``, ...), each with ReLU."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, conv_dims: list[int], fc_dims: list[int], conv_norm: str | type[nn.Module] = "") -> None:
        """
        Args:
            input_shape: channels, height and width of the pooled map.
            conv_dims: output channels of the convolutions.
            fc_dims: output channels of the fully connected layers. AssertionError if there is no layer at all.
            conv_norm: see :func:`layers.get_norm`.
        """
        super().__init__()
        assert conv_dims or fc_dims, "The box head has no layers: set MODEL.ROI_BOX_HEAD.NUM_CONV or NUM_FC."
        shape = (input_shape.channels, input_shape.height, input_shape.width)
        for number, width in enumerate(conv_dims, 1):
            self.add_module(f"conv{number}", conv_norm_relu(shape[0], width, conv_norm))
            shape = (width, *shape[1:])
        if fc_dims:
            self.add_module("flatten", nn.Flatten())
        for number, width in enumerate(fc_dims, 1):
            fc, shape = nn.Linear(math.prod(shape), width), (width,)
            weight_init.c2_xavier_fill(fc)
            self.add_module(f"fc{number}", fc)
            self.add_module(f"fc_relu{number}", nn.ReLU())
        self.output_shape = ShapeSpec(*shape)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Read NUM_CONV, CONV_DIM, NUM_FC, FC_DIM and NORM of ``MODEL.ROI_BOX_HEAD``."""
        options = cfg.MODEL.ROI_BOX_HEAD
        dims = {"conv_dims": [options.CONV_DIM] * options.NUM_CONV, "fc_dims": [options.FC_DIM] * options.NUM_FC}
        return {"input_shape": input_shape, "conv_norm": options.NORM, **dims}


def build_box_head(cfg: CfgNode, input_shape: ShapeSpec) -> nn.Module:
    """Build the box head ``MODEL.ROI_BOX_HEAD.NAME``: (R, C, S, S) -> (R, output_shape.channels). KeyError for an unknown name."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)
