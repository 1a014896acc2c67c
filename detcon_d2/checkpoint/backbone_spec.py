"""Which tensors a ResNet's checkpoint holds, derived from a few numbers: no model is built here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

# Residual blocks of res2..res5, as in modeling.BLOCKS_PER_STAGE; a test holds the two equal.
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
BATCH_NORMS = ("BN", "SyncBN", "naiveSyncBN")
"""Values of MODEL.RESNETS.NORM with the same tensors and, in evaluation, the same numbers."""


class Convolution(NamedTuple):
    """One normalised convolution: its Detectron2 name, torchvision's names of it and of its norm, the weight's shape."""

    name: str
    torchvision: str
    torchvision_norm: str
    shape: tuple[int, int, int, int]


@dataclass(frozen=True)
class BackboneSpec:
    """What fixes the tensors of a ResNet; channels are those of width multiplier 1, named as in MODEL.RESNETS."""

    depth: int
    width_multiplier: int = 1
    stem_out_channels: int = 64
    res2_out_channels: int = 256
    width_per_group: int = 64
    num_groups: int = 1
    stride_in_1x1: bool = False
    norm: str = "SyncBN"

    @property
    def basic(self) -> bool:
        """Two 3x3 convolutions a block (depth 18 and 34) in place of the bottleneck."""
        return self.depth < 50

    @property
    def channels(self) -> dict[str, int]:
        """MODEL.RESNETS keys -> channels with the multiplier applied: plain Detectron2 builds the same network from them."""
        width = self.width_multiplier
        inner = {} if self.basic else {"NUM_GROUPS": self.num_groups, "WIDTH_PER_GROUP": self.width_per_group * width}
        return {"STEM_OUT_CHANNELS": self.stem_out_channels * width, "RES2_OUT_CHANNELS": self.res2_out_channels * width, **inner}

    @property
    def is_plain(self) -> bool:
        """Detectron2's own ``build_resnet_backbone`` can build it: neither depth 200 nor a ResNet-18 or -34 of another width."""
        return self.depth != 200 and not (self.basic and self.channels["RES2_OUT_CHANNELS"] != 64)

    @property
    def is_standard(self) -> bool:
        """The channels of the published ResNets, which torchvision and timm build."""
        published = {"STEM_OUT_CHANNELS": 64, "RES2_OUT_CHANNELS": 64} if self.basic else BackboneSpec(50).channels
        return self.channels == published

    def describe(self) -> str:
        """For messages, such as ``ResNet-50``, with the channels where they are not the published ones."""
        width = "" if self.is_standard else f" ({', '.join(f'{key} {value}' for key, value in self.channels.items())})"
        return f"ResNet-{self.depth}{width}"


def spec_from_metadata(metadata: Mapping[str, Any]) -> BackboneSpec:
    """The backbone that a pretraining checkpoint's ``metadata`` describes; what an older one does not name has the published value.

    Raises:
        ValueError: naming the entry, for a depth or a norm that no conversion knows.
    """
    depth, norm = metadata.get("depth"), metadata.get("norm", "SyncBN")
    if not isinstance(depth, int) or depth not in _BLOCKS:
        raise ValueError(f"The checkpoint's metadata says depth {depth!r}; expected one of {', '.join(map(str, _BLOCKS))}.")
    if norm not in BATCH_NORMS:
        raise ValueError(f"The checkpoint's metadata says norm {norm!r}; only {', '.join(BATCH_NORMS)} can be converted.")
    return BackboneSpec(
        depth=depth,
        width_multiplier=metadata.get("width_multiplier", 1),
        stem_out_channels=metadata.get("stem_out_channels", 64),
        res2_out_channels=metadata.get("res2_out_channels", 64 if depth < 50 else 256),
        width_per_group=metadata.get("width_per_group", 64),
        num_groups=metadata.get("num_groups", 1),
        stride_in_1x1=bool(metadata.get("stride_in_1x1", False)),
        norm=norm,
    )


def spec_from_tensors(backbone: Mapping[str, torch.Tensor]) -> BackboneSpec:
    """The backbone whose tensors these are (Detectron2's names without a prefix): blocks and channels are counted.

    Stride placement and kind of BatchNorm leave no trace in the tensors: they are DetCon's.

    Raises:
        ValueError: the blocks are those of no known depth, or the tensors that tell are missing.
    """
    blocks = tuple(_count_blocks(backbone, stage) for stage in range(2, 6))
    basic = not any(name.startswith("res2.0.conv3.") for name in backbone)
    depths = [depth for depth, known in _BLOCKS.items() if known == blocks and (depth < 50) == basic]
    last = "res2.0.conv2.weight" if basic else "res2.0.conv3.weight"
    absent = [name for name in ("stem.conv1.weight", "res2.0.conv2.weight", last) if name not in backbone or backbone[name].ndim != 4]
    if not depths or absent:
        found = f"{', '.join(map(str, blocks))} blocks in res2..res5, {'two' if basic else 'three'} convolutions each"
        missing = f"; missing or no convolution: {', '.join(absent)}" if absent else ""
        raise ValueError(f"Cannot tell the depth from the tensors: {found}{missing}.")
    inner, per_group = backbone["res2.0.conv2.weight"].shape[:2]
    groups = 1 if basic else inner // per_group
    return BackboneSpec(
        depth=depths[0],
        stem_out_channels=backbone["stem.conv1.weight"].shape[0],
        res2_out_channels=backbone[last].shape[0],
        width_per_group=64 if basic else inner // groups,
        num_groups=groups,
    )


def convolutions(spec: BackboneSpec) -> Iterator[Convolution]:
    """Every convolution of the backbone, in the order of the network. Each is followed by a BatchNorm."""
    channels = spec.channels
    yield Convolution("stem.conv1", "conv1", "bn1", (channels["STEM_OUT_CHANNELS"], 3, 7, 7))
    inputs, outputs = channels["STEM_OUT_CHANNELS"], channels["RES2_OUT_CHANNELS"]
    for index, blocks in enumerate(_BLOCKS[spec.depth]):
        for block in range(blocks):
            name, torchvision = f"res{index + 2}.{block}", f"layer{index + 1}.{block}"
            if inputs != outputs:
                shape = (outputs, inputs, 1, 1)
                yield Convolution(f"{name}.shortcut", f"{torchvision}.downsample.0", f"{torchvision}.downsample.1", shape)
            for number, shape in enumerate(_block_shapes(spec, index, inputs, outputs), start=1):
                yield Convolution(f"{name}.conv{number}", f"{torchvision}.conv{number}", f"{torchvision}.bn{number}", shape)
            inputs = outputs
        outputs *= 2


def _block_shapes(spec: BackboneSpec, index: int, inputs: int, outputs: int) -> list[tuple[int, int, int, int]]:
    if spec.basic:
        return [(outputs, inputs, 3, 3), (outputs, outputs, 3, 3)]
    inner = spec.num_groups * spec.channels["WIDTH_PER_GROUP"] * 2**index
    return [(inner, inputs, 1, 1), (inner, inner // spec.num_groups, 3, 3), (outputs, inner, 1, 1)]


def _count_blocks(backbone: Mapping[str, torch.Tensor], stage: int) -> int:
    blocks = 0
    while f"res{stage}.{blocks}.conv1.weight" in backbone:
        blocks += 1
    return blocks
