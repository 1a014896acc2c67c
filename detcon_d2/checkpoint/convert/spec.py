"""What fixes a pretrained backbone and the images that it takes: the names in metadata, the config keys, and the tensors that follow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch

from detcon_d2 import d2
from detcon_d2.config import PADDINGS, backbone_padding, last_stage

# Residual blocks of res2..res5, as in modeling.BLOCKS_PER_STAGE; a test compares the two.
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
BATCH_NORMS = ("BN", "SyncBN", "naiveSyncBN")
"""Values of MODEL.RESNETS.NORM with the same tensors and, in evaluation, the same numbers."""

IMAGENET: dict[str, Any] = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
"""Images standardised by ImageNet's statistics, in 0..255 units."""
UNIT: dict[str, Any] = {"pixel_mean": [0.0, 0.0, 0.0], "pixel_std": [255.0, 255.0, 255.0]}
"""Images scaled to [0, 1] and nothing more."""
STATISTICS = {"imagenet": IMAGENET, "unit": UNIT}
ASSUMED: dict[str, Any] = {"channel_order": "RGB", **IMAGENET, "stride_in_1x1": False, "norm": "SyncBN"}
"""What a checkpoint without metadata is taken to be: configs/Base-DetCon.yaml."""


class Convolution(NamedTuple):
    """One normalised convolution: res2..res5 are stages 2..5, the stem is stage 1; part is conv1..conv3 or shortcut."""

    stage: int
    block: int
    part: str
    shape: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """Detectron2's, such as ``res2.0.conv1``; its norm is ``<name>.norm``."""
        return f"stem.{self.part}" if self.stage == 1 else f"res{self.stage}.{self.block}.{self.part}"


class Stage(NamedTuple):
    """One of res2..res5: its blocks, the channels of their inner convolutions and those of their output."""

    blocks: int
    inner: int
    outputs: int


def _entry(key: str, default: Any = MISSING, *, counted: bool = False) -> Any:
    """A field that is an entry of the metadata under its own name; its config key; whether the tensors show its value."""
    return field(default=default, metadata={"key": key, "counted": counted})


@dataclass(frozen=True)
class BackboneSpec:
    """What fixes the tensors of a ResNet; channels are those of width multiplier 1. This table reads and writes metadata and configs."""

    depth: int = _entry("MODEL.RESNETS.DEPTH", counted=True)
    last_stage: int = _entry("MODEL.RESNETS.OUT_FEATURES", 5)
    """Number of the last stage: 4 for a network that ends with res4."""
    width_multiplier: int = _entry("DETCON.WIDTH_MULTIPLIER", 1, counted=True)
    stem_out_channels: int = _entry("MODEL.RESNETS.STEM_OUT_CHANNELS", 64, counted=True)
    res2_out_channels: int = _entry("MODEL.RESNETS.RES2_OUT_CHANNELS", 256, counted=True)
    width_per_group: int = _entry("MODEL.RESNETS.WIDTH_PER_GROUP", 64, counted=True)
    num_groups: int = _entry("MODEL.RESNETS.NUM_GROUPS", 1, counted=True)
    stride_in_1x1: bool = _entry("MODEL.RESNETS.STRIDE_IN_1X1", False)
    padding: str = _entry("DETCON.BACKBONE.PADDING", "symmetric")
    norm: str = _entry("MODEL.RESNETS.NORM", "SyncBN")
    stages: tuple[Stage, ...] | None = None
    """For a network that is no published ResNet: its stages, in place of depth and channels."""

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> "BackboneSpec":
        """The backbone that a config builds; ValueError for a DETCON.BACKBONE.PADDING that its builder does not have."""
        values = {name: read_key(cfg, key) for name, key in KEYS.items()}
        values |= {"padding": backbone_padding(cfg), "last_stage": last_stage(cfg), "stride_in_1x1": bool(values["stride_in_1x1"])}
        if not cfg.MODEL.BACKBONE.NAME.startswith("build_detcon_"):
            values["width_multiplier"] = 1  # Detectron2's builders have no multiplier
        return cls(**values)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "BackboneSpec":
        """The backbone that a checkpoint's metadata describes; an entry that an older file lacks has the published value.

        Raises:
            ValueError: naming the entry, for a depth, a norm, a padding or a last stage that no conversion knows.
        """
        values = {name: metadata[name] for name in KEYS if name in metadata}
        allowed = {"depth": tuple(_BLOCKS), "norm": BATCH_NORMS, "padding": PADDINGS, "last_stage": (2, 3, 4, 5)}
        for name, expected in allowed.items():
            if name in ({"depth"} | values.keys()) and values.get(name) not in expected:
                listed = ", ".join(map(str, expected))
                raise ValueError(f"The checkpoint's metadata says {name} {values.get(name)!r}; expected one of {listed}.")
        if values["depth"] < 50:
            values = {"res2_out_channels": 64} | values
        return cls(**values | {"stride_in_1x1": bool(values.get("stride_in_1x1", False))})

    def metadata(self, *, counted: bool = False) -> dict[str, Any]:
        """The entries by name; with ``counted`` only those that the tensors of this network show."""
        if counted and self.stages is not None:
            channels = {"stem_out_channels": self.stem_out_channels, "stage_channels": [stage.outputs for stage in self.stages]}
            return {"blocks": [stage.blocks for stage in self.stages], **channels}
        unused = _OF_BOTTLENECKS if counted and self.basic else ()
        return {x.name: getattr(self, x.name) for x in _ENTRIES if x.name not in unused and (x.metadata["counted"] or not counted)}

    def settings(self) -> dict[str, Any]:
        """Config key -> value, for a config with DetCon's keys that builds this backbone."""
        values = {name: value for name, value in self.metadata().items() if not (self.basic and name in _OF_BOTTLENECKS)}
        return {KEYS[name]: value for name, value in values.items()} | {KEYS["last_stage"]: list(self.stage_names)}

    @property
    def written_out(self) -> "BackboneSpec":
        """The same network with its width multiplier written out as channels, from which plain Detectron2 builds it."""
        names = ("stem_out_channels", "res2_out_channels", "width_per_group")
        return replace(self, width_multiplier=1, **{name: getattr(self, name) * self.width_multiplier for name in names})

    @property
    def channels(self) -> dict[str, int]:
        """MODEL.RESNETS keys -> channels with the multiplier applied."""
        names = ("stem_out_channels", "res2_out_channels", *(() if self.basic else _OF_BOTTLENECKS))
        return {name.upper(): getattr(self.written_out, name) for name in names}

    @property
    def basic(self) -> bool:
        """Two 3x3 convolutions per block (depth 18 and 34) in place of the bottleneck."""
        return self.depth < 50 if self.stages is None else self.stages[0].inner == self.stages[0].outputs

    @property
    def layout(self) -> tuple[Stage, ...]:
        """res2 to the last stage; channels double from stage to stage in a published ResNet."""
        if self.stages is not None:
            return self.stages
        outputs = self.channels["RES2_OUT_CHANNELS"]
        inner = outputs if self.basic else self.num_groups * self.channels["WIDTH_PER_GROUP"]
        blocks = _BLOCKS[self.depth][: self.last_stage - 1]
        return tuple(Stage(number, inner * 2**index, outputs * 2**index) for index, number in enumerate(blocks))

    @property
    def stage_names(self) -> tuple[str, ...]:
        """``res2`` to the last stage."""
        return tuple(f"res{number}" for number, _ in enumerate(self.layout, start=2))

    @property
    def is_plain(self) -> bool:
        """Detectron2's own ``build_resnet_fpn_backbone`` can build it: no depth 200, no ResNet-18 or -34 of another width, no SAME padding,
        and all stages, since its p6 is made of p5."""
        common = self.stages is None and self.padding == "symmetric" and self.last_stage == 5
        return common and self.depth != 200 and not (self.basic and self.channels["RES2_OUT_CHANNELS"] != 64)

    @property
    def has_config(self) -> bool:
        """Some config builds it, Detectron2's or this package's."""
        return self.stages is None and not (self.basic and self.res2_out_channels != 64)

    @property
    def is_standard(self) -> bool:
        """Channels and stages of the published ResNets, which torchvision and timm build."""
        published = BackboneSpec(self.depth, res2_out_channels=64 if self.basic else 256)
        return self.stages is None and self.last_stage == 5 and self.channels == published.channels

    def describe(self) -> str:
        """For messages, such as ``ResNet-50``, with the channels where they are not the published ones."""
        if self.stages is not None:
            blocks, channels = (", ".join(map(str, values)) for values in zip(*((x.blocks, x.outputs) for x in self.stages), strict=True))
            return f"ResNet of {blocks} blocks and {channels} channels"
        width = "" if replace(self, last_stage=5).is_standard else f" ({', '.join(f'{k} {v}' for k, v in self.channels.items())})"
        return f"ResNet-{self.depth}{width}{'' if self.last_stage == 5 else f' up to res{self.last_stage}'}"


_ENTRIES = tuple(x for x in fields(BackboneSpec) if "key" in x.metadata)
_OF_BOTTLENECKS = ("num_groups", "width_per_group")
KEYS: dict[str, str] = {entry.name: entry.metadata["key"] for entry in _ENTRIES}
"""Name in a checkpoint's metadata -> config key, of the backbone."""
COUNTED = tuple(entry.name for entry in _ENTRIES if entry.metadata["counted"])
"""Names of the entries that the tensors show."""
IMAGE_KEYS = {"channel_order": "INPUT.FORMAT", "pixel_mean": "MODEL.PIXEL_MEAN", "pixel_std": "MODEL.PIXEL_STD"}
"""The same for the images that it takes."""


def read_key(cfg: "d2.CfgNode", key: str) -> Any:
    """The value of a dotted config key; tuples and lists as lists."""
    for part in key.split("."):
        cfg = cfg[part]
    return list(cfg) if isinstance(cfg, tuple | list) else cfg


def spec_from_tensors(backbone: Mapping[str, torch.Tensor], blocks: Sequence[int] | None = None) -> BackboneSpec:
    """The backbone whose tensors these are (Detectron2's names without a prefix): blocks and channels are counted.

    Stride placement, padding and kind of BatchNorm leave no trace in the tensors: they are DetCon's.

    Args:
        backbone: the tensors; some may be missing.
        blocks: those of res2..res5, for a network that is no published ResNet.

    Raises:
        ValueError: the blocks are those of no known depth (or not ``blocks``), or too many tensors are missing to tell.
    """
    counted = tuple(_count_blocks(backbone, stage) for stage in range(2, 6))
    basic = not any(".conv3." in name for name in backbone)
    depths = [depth for depth, known in _BLOCKS.items() if known == counted and (depth < 50) == basic]
    if counted != (tuple(blocks) if blocks else counted) or not (depths or blocks):
        found = f"{', '.join(map(str, counted))} blocks in res2..res5, {'two' if basic else 'three'} convolutions each"
        raise ValueError(f"Cannot tell the depth from the tensors: {found}.")
    last = "conv2" if basic else "conv3"
    stem, inner, outputs = (_channels(backbone, name) for name in ("stem.conv1", "res2.0.conv2", f"res2.0.{last}"))
    if not depths:
        firsts = [(_channels(backbone, f"res{stage}.0.conv2"), _channels(backbone, f"res{stage}.0.{last}")) for stage in range(2, 6)]
        stages = tuple(Stage(number, *channels) for number, channels in zip(counted, firsts, strict=True))
        depth = 2 + (2 if basic else 3) * sum(counted)
        return BackboneSpec(depth=depth, stem_out_channels=stem, res2_out_channels=outputs, stages=stages)
    if basic:
        # Our builder, like Detectron2's, takes 64 channels in res2 of a basic ResNet; other widths are multiples of it.
        width = outputs // 64 if outputs % 64 == 0 and stem % (outputs // 64) == 0 else 1
        return BackboneSpec(depths[0], width_multiplier=width, stem_out_channels=stem // width, res2_out_channels=outputs // width)
    kernel = backbone.get("res2.0.conv2.weight")
    groups = inner // kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 1
    return BackboneSpec(
        depth=depths[0], stem_out_channels=stem, res2_out_channels=outputs, width_per_group=inner // groups, num_groups=groups
    )


def _channels(backbone: Mapping[str, torch.Tensor], conv: str) -> int:
    """Output channels of a convolution, by its kernel or, where that is missing, its norm."""
    for name in (f"{conv}.weight", f"{conv}.norm.weight", f"{conv}.norm.running_mean"):
        if name in backbone and backbone[name].ndim in (1, 4) and backbone[name].shape[0]:
            return backbone[name].shape[0]
    raise ValueError(f"Cannot tell the channels from the tensors: neither {conv}.weight nor its norm is there.")


def convolutions(spec: BackboneSpec) -> Iterator[Convolution]:
    """Every convolution of the backbone, in the order of the network. Each is followed by a BatchNorm."""
    inputs = spec.channels["STEM_OUT_CHANNELS"]
    yield Convolution(1, 0, "conv1", (inputs, 3, 7, 7))
    for index, stage in enumerate(spec.layout, start=2):
        for block in range(stage.blocks):
            if inputs != stage.outputs:
                yield Convolution(index, block, "shortcut", (stage.outputs, inputs, 1, 1))
            for number, shape in enumerate(_block_shapes(spec, stage, inputs), start=1):
                yield Convolution(index, block, f"conv{number}", shape)
            inputs = stage.outputs


def _block_shapes(spec: BackboneSpec, stage: Stage, inputs: int) -> list[tuple[int, int, int, int]]:
    inner, outputs = stage.inner, stage.outputs
    if spec.basic:
        return [(outputs, inputs, 3, 3), (outputs, outputs, 3, 3)]
    return [(inner, inputs, 1, 1), (inner, inner // spec.num_groups, 3, 3), (outputs, inner, 1, 1)]


def _count_blocks(backbone: Mapping[str, torch.Tensor], stage: int) -> int:
    """The highest number of a block, plus one: a tensor that is missing between is named later, as missing."""
    return max((int(name.split(".")[1]) + 1 for name in backbone if name.startswith(f"res{stage}.")), default=0)
