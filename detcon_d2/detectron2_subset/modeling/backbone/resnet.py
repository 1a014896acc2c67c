"""ResNet (He et al., arXiv 1512.03385) with the options, parameter names and numbers of Detectron2, without deformable blocks."""

import math
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import nn

from ...config import CfgNode
from ...layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from ...layers.batch_norm import NormName
from ...missing import missing_name
from .backbone import Backbone
from .build import BACKBONE_REGISTRY

__getattr__ = missing_name(__name__)

Block = type[CNNBlockBase]
Stages = list[list[CNNBlockBase]]
_BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _conv(in_channels: int, out_channels: int, kernel: int, norm: NormName, stride: int = 1, dilation: int = 1, groups: int = 1) -> Conv2d:
    """Return a convolution with norm and MSRA initialisation, which keeps the size at stride 1."""
    geometry = {"stride": stride, "padding": dilation * (kernel // 2), "dilation": dilation, "groups": groups}
    conv = Conv2d(in_channels, out_channels, kernel, bias=False, norm=get_norm(norm, out_channels), **geometry)
    weight_init.c2_msra_fill(conv)
    return conv


class _ResidualBlock(CNNBlockBase):
    """relu(branch(x) + shortcut(x)); the shortcut is a 1x1 projection if the number of channels changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: NormName) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = None if in_channels == out_channels else _conv(in_channels, out_channels, 1, norm, stride)

    def _branch(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        out = self._branch(x)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BasicBlock(_ResidualBlock):
    """Two 3x3 convolutions, the first with the stride. The block of ResNet-18 and -34."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: NormName = "BN") -> None:
        """``norm``: see :func:`layers.get_norm`."""
        super().__init__(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride)
        self.conv2 = _conv(out_channels, out_channels, 3, norm)

    def _branch(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(F.relu_(self.conv1(x)))


class BottleneckBlock(_ResidualBlock):
    """1x1, 3x3 (grouped, dilated) and 1x1 convolutions. The block of ResNet-50 and deeper networks."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: NormName = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ) -> None:
        """``stride_in_1x1``: the first convolution has the stride (weights of Caffe2), not the 3x3 convolution (torchvision, DetCon)."""
        super().__init__(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm, stride if stride_in_1x1 else 1)
        self.conv2 = _conv(bottleneck_channels, bottleneck_channels, 3, norm, 1 if stride_in_1x1 else stride, dilation, num_groups)
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)

    def _branch(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv3(F.relu_(self.conv2(F.relu_(self.conv1(x)))))


class BasicStem(CNNBlockBase):
    """7x7 convolution of stride 2, ReLU, 3x3 max pooling of stride 2."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: NormName = "BN") -> None:
        """``norm``: see :func:`layers.get_norm`."""
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / 4), ceil(W / 4))."""
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem and stages "res2", "res3", ... of residual blocks. The subset has no classifier ("linear")."""

    def __init__(self, stem: nn.Module, stages: Stages, *, out_features: list[str], freeze_at: int = 0) -> None:
        """``out_features``: names of the maps that :meth:`forward` returns; the stages after the last of them are removed.

        ``freeze_at``: see :meth:`freeze`. AssertionError for a name that does not exist.
        """
        super().__init__()
        self.stem = stem
        self._add_stages(stages[: _stages_needed(out_features)])
        names = [name for name, _ in self.named_children()]
        self._out_features = out_features
        unknown = set(self._out_features) - set(names)
        assert not unknown, f"out_features {sorted(unknown)} do not exist; available: {', '.join(names)}."
        self.freeze(freeze_at)

    def _add_stages(self, stages: Stages) -> None:
        stride = self.stem.stride
        self._out_feature_strides, self._out_feature_channels = {"stem": stride}, {"stem": self.stem.out_channels}
        self.stages = [nn.Sequential(*blocks) for blocks in stages]
        self.stage_names = tuple(f"res{number}" for number in range(2, len(stages) + 2))
        for name, stage in zip(self.stage_names, self.stages):
            self.add_module(name, stage)
            stride *= math.prod(block.stride for block in stage)
            self._out_feature_strides[name], self._out_feature_channels[name] = stride, stage[-1].out_channels

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, C, H, W) -> the maps (N, C', H', W') named in ``out_features``."""
        assert x.dim() == 4, f"ResNet takes images (N, C, H, W), found shape {tuple(x.shape)}."
        x = self.stem(x)
        outputs = {"stem": x}
        for name, stage in zip(self.stage_names, self.stages):
            x = outputs[name] = stage(x)
        return {name: value for name, value in outputs.items() if name in self._out_features}

    def freeze(self, freeze_at: int = 0) -> "ResNet":
        """Freeze the stem (1), the stem and "res2" (2), and so on; 0 freezes nothing. Return the network."""
        for block in chain.from_iterable([[self.stem], *self.stages][: max(freeze_at, 0)]):
            block.freeze()
        return self

    @staticmethod
    def make_stage(block_class: Block, num_blocks: int, *, in_channels: int, out_channels: int, **kwargs: Any) -> list[CNNBlockBase]:
        """Return ``num_blocks`` blocks; the first has ``in_channels`` input channels, the others have ``out_channels``.

        ``kwargs`` are arguments of every block; ``x_per_block`` is a list with one ``x`` per block. AssertionError for a list of another
        length, or both forms of one argument.
        """
        common = {name: value for name, value in kwargs.items() if not name.endswith("_per_block")}
        varying = {name.removesuffix("_per_block"): value for name, value in kwargs.items() if name.endswith("_per_block")}
        assert not varying.keys() & common.keys(), f"Arguments given per block and for all blocks: {varying.keys() & common.keys()}."
        assert all(len(values) == num_blocks for values in varying.values()), f"Expected {num_blocks} values, one per block: {varying}."
        inputs = [in_channels] + [out_channels] * (num_blocks - 1)
        own = [{name: values[index] for name, values in varying.items()} for index in range(num_blocks)]
        return [block_class(channels, out_channels, **common, **options) for channels, options in zip(inputs, own)]


def _stages_needed(out_features: list[str]) -> int:
    """Return how many stages the features need: parameters of later stages would get no gradient."""
    return max((int(name[3:]) - 1 for name in out_features if name.startswith("res") and name[3:].isdigit()), default=0)


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build the ResNet of ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``.

    AssertionError for options that the depth does not support, NotImplementedError for deformable convolutions.
    """
    options = cfg.MODEL.RESNETS
    _check_options(options)
    out_features, depth = list(options.OUT_FEATURES), options.DEPTH
    stages, in_channels = [], options.STEM_OUT_CHANNELS
    for index, count in enumerate(_BLOCKS_PER_STAGE[depth][: _stages_needed(out_features)]):
        dilation = options.RES5_DILATION if index == 3 else 1
        first_stride = 1 if index == 0 or dilation == 2 else 2
        kwargs = {"stride_per_block": [first_stride] + [1] * (count - 1), "norm": options.NORM}
        if depth >= 50:
            kwargs["bottleneck_channels"] = options.NUM_GROUPS * options.WIDTH_PER_GROUP * 2**index
            kwargs |= {"num_groups": options.NUM_GROUPS, "stride_in_1x1": options.STRIDE_IN_1X1, "dilation": dilation}
        out_channels = options.RES2_OUT_CHANNELS * 2**index
        block_class = BasicBlock if depth < 50 else BottleneckBlock
        stages.append(ResNet.make_stage(block_class, count, in_channels=in_channels, out_channels=out_channels, **kwargs))
        in_channels = out_channels
    stem = BasicStem(input_shape.channels, options.STEM_OUT_CHANNELS, options.NORM)
    return ResNet(stem, stages, out_features=out_features, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _check_options(options: CfgNode) -> None:
    if any(options.DEFORM_ON_PER_STAGE):
        raise NotImplementedError("Deformable convolutions (MODEL.RESNETS.DEFORM_ON_PER_STAGE) are not in the subset; install detectron2")
    assert options.RES5_DILATION in (1, 2), f"MODEL.RESNETS.RES5_DILATION is 1 or 2, found {options.RES5_DILATION}."
    if options.DEPTH in (18, 34):
        for key, value in (("RES2_OUT_CHANNELS", 64), ("RES5_DILATION", 1), ("NUM_GROUPS", 1)):
            assert options[key] == value, f"ResNet-{options.DEPTH} needs MODEL.RESNETS.{key} = {value}, found {options[key]}."
