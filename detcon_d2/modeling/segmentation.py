"""Semantic segmentation as it is used to compare pretrained backbones: a dilated ResNet and a small FCN head (Long et al. 2015)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.modeling.backbone import build_detcon_resnet_backbone

_NUM_CONVS = 2


def build_detcon_dilated_resnet_backbone(cfg: "d2.CfgNode", input_shape: "d2.ShapeSpec") -> "d2.ResNet":
    """:func:`~detcon_d2.modeling.backbone.build_detcon_resnet_backbone`, dilated by :func:`dilated` to DETCON.SEM_SEG.OUTPUT_STRIDE."""
    return dilated(build_detcon_resnet_backbone(cfg, input_shape), cfg.MODEL.RESNETS.OUT_FEATURES, cfg.DETCON.SEM_SEG.OUTPUT_STRIDE)


def dilated(network: "d2.ResNet", out_features: list[str], output_stride: int) -> "d2.ResNet":
    """A ResNet of the same blocks, which are changed: its last stages have stride 1, and dilations by which old outputs keep their values.

    With output stride 16, the 3x3 convolutions of res5 have dilation 2, except the one that had the stride; with 8, those of res4 have 2
    and those of res5 4, after a first one of 2. (Released segmentation code calls this a contracted dilation. RES5_DILATION of Detectron2
    also dilates the first convolution of res5, which changes the outputs.)

    Raises ValueError: an output stride other than 8, 16 or 32, or a stride that is not in the 3x3 convolutions.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"DETCON.SEM_SEG.OUTPUT_STRIDE is {output_stride}; expected 8, 16 or 32.")
    stride, dilation = network.stem.stride, 1
    for stage in network.stages:
        step = stage[0].stride
        if stride * step > output_stride:
            for number, block in enumerate(stage):
                _dilate_block(block, dilation if number == 0 else dilation * step, dilation * step)
            dilation *= step
        else:
            stride *= step
    return d2.ResNet(network.stem, [list(stage) for stage in network.stages], out_features=out_features)


def _dilate_block(block: nn.Module, first: int, dilation: int) -> None:
    convs = [block.conv1, block.conv2] if isinstance(block, d2.BasicBlock) else [block.conv2]
    if isinstance(block, d2.BottleneckBlock) and max(block.conv1.stride) > 1:
        raise ValueError("MODEL.RESNETS.STRIDE_IN_1X1 is True; expected False: a dilated 3x3 convolution cannot replace a strided 1x1 one.")
    block.stride = 1
    for conv, value in zip(convs, [first, dilation]):
        conv.stride, conv.dilation, conv.padding = (1, 1), (value, value), (value, value)
    if block.shortcut is not None:
        block.shortcut.stride = (1, 1)


class FCNBranch(nn.Module):
    """3x3 convolutions with norm and ReLU, and a 1x1 convolution to the classes."""

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, *, num_convs: int, norm: str, dilation: int, concat: bool, dropout: float
    ):
        """
        Args:
            in_channels, channels: of the input, and of the convolutions.
            num_classes: channels of the output.
            num_convs: number of 3x3 convolutions.
            norm: of each convolution.
            dilation: of each 3x3 convolution.
            concat: one more convolution, without dilation, of the input and the output of the others.
            dropout: probability with which a channel before the 1x1 convolution is 0 in training.
        """
        super().__init__()
        inputs = [in_channels] + [channels] * (num_convs - 1)
        self.convs = nn.Sequential(*(_conv(size, channels, norm, dilation) for size in inputs))
        self.merge = _conv(in_channels + channels, channels, norm, 1) if concat else None
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = d2.Conv2d(channels, num_classes, kernel_size=1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, h, w) -> logits (N, num_classes, h, w)."""
        y = self.convs(x)
        if self.merge is not None:
            y = self.merge(torch.cat([x, y], dim=1))
        return self.predictor(self.dropout(y))


def _conv(in_channels: int, channels: int, norm: str, dilation: int) -> "d2.Conv2d":
    geometry = {"kernel_size": 3, "padding": dilation, "dilation": dilation, "bias": not norm}
    conv = d2.Conv2d(in_channels, channels, **geometry, norm=d2.get_norm(norm, channels), activation=F.relu)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class FCNHead(nn.Module):
    """The head of Detectron2's ``SemanticSegmentor``: a branch on the last of ``in_features``, and an auxiliary one on the first.

    The auxiliary branch has one convolution of half the channels, and exists where its loss has a weight. It is used in training only.
    """

    @d2.configurable
    def __init__(
        self,
        input_shape: "Mapping[str, d2.ShapeSpec]",
        *,
        in_features: list[str],
        num_classes: int,
        channels: int,
        norm: str,
        dilation: int,
        concat: bool,
        dropout: float,
        loss_weight: float,
        auxiliary_weight: float,
        align_corners: bool,
        ignore_value: int,
    ):
        """``input_shape``: of the backbone's outputs; the others are the keys of MODEL.SEM_SEG_HEAD and DETCON.SEM_SEG."""
        super().__init__()
        self.in_features, self.ignore_value, self.align_corners = list(in_features), ignore_value, align_corners
        self.weights = {"main": loss_weight, "auxiliary": auxiliary_weight}
        sizes = [input_shape[name].channels for name in self.in_features]
        options = {"norm": norm, "dropout": dropout}
        self.main = FCNBranch(sizes[-1], channels, num_classes, num_convs=_NUM_CONVS, dilation=dilation, concat=concat, **options)
        self.auxiliary = None
        if auxiliary_weight:
            self.auxiliary = FCNBranch(sizes[0], channels // 2, num_classes, num_convs=1, dilation=1, concat=False, **options)

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", input_shape: "Mapping[str, d2.ShapeSpec]") -> dict[str, Any]:
        """Reads MODEL.SEM_SEG_HEAD and DETCON.SEM_SEG."""
        head, own = cfg.MODEL.SEM_SEG_HEAD, cfg.DETCON.SEM_SEG
        return {
            "input_shape": input_shape,
            "in_features": head.IN_FEATURES,
            "num_classes": head.NUM_CLASSES,
            "channels": head.CONVS_DIM,
            "norm": head.NORM,
            "dilation": own.DILATION,
            "concat": own.CONCAT_INPUT,
            "dropout": own.DROPOUT,
            "loss_weight": head.LOSS_WEIGHT,
            "auxiliary_weight": own.AUXILIARY_WEIGHT,
            "align_corners": own.ALIGN_CORNERS,
            "ignore_value": head.IGNORE_VALUE,
        }

    def forward(
        self, features: Mapping[str, torch.Tensor], targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """The logits (N, C, h, w) of the smallest features in evaluation, not enlarged, or the losses in training.

        Args:
            features: of the backbone.
            targets: int64 (N, H, W), classes or ``ignore_value``; used in training.
        """
        if not self.training:
            return self.main(features[self.in_features[-1]]), {}
        losses = {"loss_sem_seg": self._loss("main", features[self.in_features[-1]], targets)}
        if self.auxiliary is not None:
            losses["loss_sem_seg_auxiliary"] = self._loss("auxiliary", features[self.in_features[0]], targets)
        return None, losses

    def enlarge(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Bilinear interpolation of (N, C, h, w) to ``size``."""
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=self.align_corners)

    def _loss(self, branch: str, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy, as the released code averages it: over all pixels, also those that are ignored and add 0. Images with much padding
        weigh less, and one without any class gives 0 and not NaN."""
        logits = self.enlarge(getattr(self, branch)(features).float(), tuple(targets.shape[-2:]))
        entropy = F.cross_entropy(logits, targets, reduction="sum", ignore_index=self.ignore_value)
        return self.weights[branch] * entropy / targets.numel()


d2.BACKBONE_REGISTRY.register(build_detcon_dilated_resnet_backbone)
if d2.BACKEND == "detectron2":  # the subset has no semantic segmentation
    d2.SEM_SEG_HEADS_REGISTRY.register(FCNHead)
