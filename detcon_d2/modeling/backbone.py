"""The encoder: Detectron2's ResNet parts, with depth 200, width multipliers and "SAME" padding, under the same parameter names."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.modeling.same_padding import SameStem, use_same_padding

PADDINGS = ("symmetric", "same")
"""Values of DETCON.BACKBONE.PADDING."""
BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
"""Residual blocks of res2..res5 by depth (He et al. 2015, table 1; 200: Hénaff et al. 2021)."""


def backbone_padding(cfg: "d2.CfgNode", builder: str | None = None) -> str:
    """The padding, one of :data:`PADDINGS`, of the backbone that a config describes; ``builder`` is by default MODEL.BACKBONE.NAME.

    Raises ValueError: DETCON.BACKBONE.PADDING is unknown, or the builder is not DetCon's and would silently pad all sides alike.
    """
    padding, builder = cfg.DETCON.BACKBONE.PADDING, builder or cfg.MODEL.BACKBONE.NAME
    if padding not in PADDINGS:
        raise ValueError(f"DETCON.BACKBONE.PADDING is {padding!r}; expected {' or '.join(map(repr, PADDINGS))}.")
    if padding != "symmetric" and not builder.startswith("build_detcon_"):
        ours = "build_detcon_resnet_fpn_backbone" if "fpn" in builder else "build_detcon_resnet_backbone"
        raise ValueError(
            f"DETCON.BACKBONE.PADDING is {padding!r}, which MODEL.BACKBONE.NAME {builder!r} would ignore; expected {ours!r}, which has the "
            "same parameters, or the padding 'symmetric'."
        )
    return padding


def feature_channels(cfg: "d2.CfgNode", encoder: nn.Module) -> int:
    """Channels of the output DETCON.IN_FEATURE."""
    return encoder.output_shape()[cfg.DETCON.IN_FEATURE].channels


def feature_cells(cfg: "d2.CfgNode", encoder: nn.Module) -> int:
    """Cells of a view in the output DETCON.IN_FEATURE."""
    return (-(-cfg.DETCON.VIEWS.SIZE // encoder.output_shape()[cfg.DETCON.IN_FEATURE].stride)) ** 2


def feature_strides(cfg: "d2.CfgNode") -> dict[str, int]:
    """Pixels per cell of each output of the backbone, by its name."""
    with torch.device("meta"):
        return {name: shape.stride for name, shape in d2.build_backbone(cfg).output_shape().items()}


def last_stage(cfg: "d2.CfgNode") -> int:
    """Number of the ResNet's last stage, which MODEL.RESNETS.OUT_FEATURES sets: 5 for res5, 1 for the stem alone."""
    return max(int(name[3:]) if name.startswith("res") else 1 for name in cfg.MODEL.RESNETS.OUT_FEATURES)


def build_detcon_resnet_backbone(cfg: "d2.CfgNode", input_shape: "d2.ShapeSpec") -> "d2.ResNet":
    """A ResNet from ``MODEL.RESNETS`` and ``DETCON.WIDTH_MULTIPLIER``, every stage up to the last of OUT_FEATURES.

    Parameters are named as in ``build_resnet_backbone``, and sizes of the maps are the same with each ``DETCON.BACKBONE.PADDING``.

    Raises ValueError for a depth that is not in :data:`BLOCKS_PER_STAGE`, a RES2_OUT_CHANNELS that the depth rules out, an unknown padding.
    """
    same = backbone_padding(cfg, "build_detcon_resnet_backbone") == "same"
    resnets = cfg.MODEL.RESNETS
    depth, norm, width = resnets.DEPTH, resnets.NORM, cfg.DETCON.WIDTH_MULTIPLIER
    if depth not in BLOCKS_PER_STAGE:
        raise ValueError(f"MODEL.RESNETS.DEPTH is {depth}; expected one of {', '.join(map(str, BLOCKS_PER_STAGE))}.")
    basic = depth < 50
    if basic and resnets.RES2_OUT_CHANNELS != 64:
        raise ValueError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS is {resnets.RES2_OUT_CHANNELS}; a ResNet-{depth} has 64. Set it to 64 in the config."
        )
    stem_channels = resnets.STEM_OUT_CHANNELS * width
    stem = (SameStem if same else d2.BasicStem)(in_channels=input_shape.channels, out_channels=stem_channels, norm=norm)

    in_channels, out_channels = stem_channels, resnets.RES2_OUT_CHANNELS * width
    bottleneck_channels = resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * width
    stages = []
    for index, num_blocks in enumerate(BLOCKS_PER_STAGE[depth][: last_stage(cfg) - 1]):
        dilation = resnets.RES5_DILATION if index == 3 else 1
        first_stride = 1 if index == 0 or dilation == 2 else 2
        kwargs = {"norm": norm, "stride_per_block": [first_stride] + [1] * (num_blocks - 1)}
        if not basic:
            kwargs.update(
                bottleneck_channels=bottleneck_channels,
                stride_in_1x1=resnets.STRIDE_IN_1X1,
                dilation=dilation,
                num_groups=resnets.NUM_GROUPS,
            )
        block = d2.BasicBlock if basic else d2.BottleneckBlock
        stage = d2.ResNet.make_stage(block, num_blocks, in_channels=in_channels, out_channels=out_channels, **kwargs)
        if basic and dilation == 2:
            _dilate_basic_blocks(stage)
        stages.append(stage)
        in_channels, out_channels, bottleneck_channels = out_channels, out_channels * 2, bottleneck_channels * 2
    network = d2.ResNet(stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)
    if same:
        use_same_padding(network)
    return network


def _dilate_basic_blocks(stage: list["d2.BasicBlock"]) -> None:
    """Set dilation 2 on all convolutions of the stage except the first. BasicBlock takes no ``dilation``; without this, RES5_DILATION 2
    would shrink the receptive field. Every second output then equals one of the stage with stride 2 and the same weights."""
    for conv in [conv for block in stage for conv in (block.conv1, block.conv2)][1:]:
        conv.dilation = conv.padding = (2, 2)


def build_detcon_resnet_fpn_backbone(cfg: "d2.CfgNode", input_shape: "d2.ShapeSpec") -> "d2.FPN":
    """:func:`build_detcon_resnet_backbone` under the feature pyramid of ``MODEL.FPN``, and one more level for the RPN (p6 from res5).

    For depth 200, width multipliers, ``DETCON.BACKBONE.PADDING`` and networks that end before res5; parameters are named as in
    ``build_resnet_fpn_backbone``, errors are those of the encoder's builder.
    """
    bottom_up, top_block = build_detcon_resnet_backbone(cfg, input_shape), d2.LastLevelMaxPool()
    # Detectron2's class assumes that the last level is "p5", made from res5.
    top_block.in_feature = f"p{int(math.log2(bottom_up.output_shape()[cfg.MODEL.FPN.IN_FEATURES[-1]].stride))}"
    return d2.FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@torch.no_grad()
def zero_init_residual(backbone: nn.Module) -> int:
    """Set the last norm's gamma of every residual block to 0, so that each block starts as its shortcut (method.md, "Networks").

    Returns:
        The number of blocks changed; 0 for a backbone without Detectron2's residual blocks.
    """
    blocks = [m for m in backbone.modules() if isinstance(m, (d2.BasicBlock, d2.BottleneckBlock))]
    for block in blocks:
        last = block.conv3 if isinstance(block, d2.BottleneckBlock) else block.conv2
        last.norm.weight.zero_()
    return len(blocks)


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Evaluation mode of these modules, but not of those inside them, while the context lasts; then each has the mode that it had."""
    modes = [(module, module.training) for module in modules]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


d2.BACKBONE_REGISTRY.register(build_detcon_resnet_backbone)
d2.BACKBONE_REGISTRY.register(build_detcon_resnet_fpn_backbone)
