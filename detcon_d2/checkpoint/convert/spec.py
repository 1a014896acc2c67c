"""What fixes a pretrained backbone and the images that it takes: the names in metadata, the config keys, and the tensors that follow."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch

from detcon_d2 import d2
from detcon_d2.modeling.backbone import BLOCKS_PER_STAGE, PADDINGS, backbone_padding, last_stage

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


def _entry(key: str, default: Any = MISSING, *, counted: bool = False) -> Any:
    """A field that is an entry of the metadata under its own name; its config key; whether the tensors show its value."""
    return field(default=default, metadata={"key": key, "counted": counted})


@dataclass(frozen=True)
class BackboneSpec:
    """What fixes the tensors of a ResNet; channels are those of width multiplier 1. This table reads and writes metadata and configs."""

    depth: int = _entry("MODEL.RESNETS.DEPTH", counted=True)
    last_stage: int = _entry("MODEL.RESNETS.OUT_FEATURES", 5)  # number of the last stage: 4 for a network that ends with res4
    width_multiplier: int = _entry("DETCON.WIDTH_MULTIPLIER", 1, counted=True)
    stem_out_channels: int = _entry("MODEL.RESNETS.STEM_OUT_CHANNELS", 64, counted=True)
    res2_out_channels: int = _entry("MODEL.RESNETS.RES2_OUT_CHANNELS", 256, counted=True)
    width_per_group: int = _entry("MODEL.RESNETS.WIDTH_PER_GROUP", 64, counted=True)
    num_groups: int = _entry("MODEL.RESNETS.NUM_GROUPS", 1, counted=True)
    stride_in_1x1: bool = _entry("MODEL.RESNETS.STRIDE_IN_1X1", False)
    padding: str = _entry("DETCON.BACKBONE.PADDING", "symmetric")
    norm: str = _entry("MODEL.RESNETS.NORM", "SyncBN")

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

        Raises ValueError: naming the entry, for a depth, a norm, a padding or a last stage that no conversion knows.
        """
        values = {"depth": None} | {name: metadata[name] for name in KEYS if name in metadata}
        allowed = {"depth": tuple(BLOCKS_PER_STAGE), "norm": BATCH_NORMS, "padding": PADDINGS, "last_stage": (2, 3, 4, 5)}
        for name, expected in allowed.items():
            if name in values and values[name] not in expected:
                listed = ", ".join(map(str, expected))
                raise ValueError(f"The checkpoint's metadata have {name} {values[name]!r}; expected one of {listed}.")
        published = {"res2_out_channels": 64 if values["depth"] < 50 else 256}
        return cls(**published | values | {"stride_in_1x1": bool(values.get("stride_in_1x1"))})

    def metadata(self, *, counted: bool = False) -> dict[str, Any]:
        """The entries by name; with ``counted`` only those that the tensors of this network show."""
        shown = [x.name for x in _ENTRIES if x.metadata["counted"] and not (self.basic and x.name in _OF_BOTTLENECKS)]
        return {name: getattr(self, name) for name in (shown if counted else KEYS)}

    def settings(self) -> dict[str, Any]:
        """Config key -> value, for a config with DetCon's keys that builds this backbone."""
        values = {KEYS[name]: value for name, value in self.metadata().items() if not (self.basic and name in _OF_BOTTLENECKS)}
        return values | {KEYS["last_stage"]: list(self.stage_names)}

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
        return self.depth < 50

    @property
    def stage_names(self) -> tuple[str, ...]:
        """``res2`` to the last stage."""
        return tuple(f"res{stage}" for stage in range(2, self.last_stage + 1))

    @property
    def has_config(self) -> bool:
        """Some config builds it: the builders take no basic ResNet with less than 64 channels in res2."""
        return not self.basic or self.res2_out_channels == 64

    @property
    def is_plain(self) -> bool:
        """Detectron2's own ``build_resnet_fpn_backbone`` can build it: no depth 200, no ResNet-18 or -34 of another width, no SAME padding,
        and all stages, since its p6 is made of p5."""
        width = not self.basic or self.written_out.res2_out_channels == 64
        return self.depth != 200 and width and self.padding == "symmetric" and self.last_stage == 5

    @property
    def is_standard(self) -> bool:
        """Channels and stages of the published ResNets, which torchvision and timm build."""
        return self.last_stage == 5 and self.channels == BackboneSpec.from_metadata({"depth": self.depth}).channels

    def describe(self) -> str:
        """For messages, such as ``ResNet-50``, with the channels where they are not the published ones."""
        width = "" if replace(self, last_stage=5).is_standard else f" ({', '.join(f'{k} {v}' for k, v in self.channels.items())})"
        return f"ResNet-{self.depth}{width}{'' if self.last_stage == 5 else f' up to res{self.last_stage}'}"


_ENTRIES = fields(BackboneSpec)
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


def spec_from_tensors(backbone: Mapping[str, torch.Tensor]) -> BackboneSpec:
    """The backbone whose tensors these are (Detectron2's names without a prefix): blocks and channels are counted.

    Stride placement, padding and kind of BatchNorm leave no trace in the tensors: they are DetCon's.

    Raises ValueError: the blocks are those of no known depth, or too many tensors are missing to find out.
    """
    # The highest number of a block, plus one: a missing tensor between is named later.
    blocks = [[int(name.split(".")[1]) + 1 for name in backbone if name.startswith(f"res{stage}.")] for stage in range(2, 6)]
    counted = tuple(max(numbers, default=0) for numbers in blocks)
    basic = not any(".conv3." in name for name in backbone)
    depth = next((depth for depth, known in BLOCKS_PER_STAGE.items() if known == counted and (depth < 50) == basic), None)
    if depth is None:
        found = f"{', '.join(map(str, counted))} blocks in res2..res5, {'two' if basic else 'three'} convolutions each"
        raise ValueError(f"Cannot tell the depth from the tensors: {found}.")
    convs = ("stem.conv1", "res2.0.conv2", "res2.0.conv2" if basic else "res2.0.conv3")
    stem, inner, outputs = (_channels(backbone, conv) for conv in convs)
    if basic:
        # Our builder, like Detectron2's, takes 64 channels in res2 of a basic ResNet; other widths are multiples of it.
        width = outputs // 64 if outputs % 64 == 0 and stem % (outputs // 64) == 0 else 1
        return BackboneSpec(depth, width_multiplier=width, stem_out_channels=stem // width, res2_out_channels=outputs // width)
    kernel = backbone.get("res2.0.conv2.weight")
    groups = inner // kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 1
    return BackboneSpec(depth, stem_out_channels=stem, res2_out_channels=outputs, width_per_group=inner // groups, num_groups=groups)


def _channels(backbone: Mapping[str, torch.Tensor], conv: str) -> int:
    """Output channels of a convolution, by its kernel or, where that is missing, its norm."""
    for name in (f"{conv}.weight", f"{conv}.norm.weight", f"{conv}.norm.running_mean"):
        if name in backbone and backbone[name].ndim in (1, 4) and backbone[name].shape[0]:
            return backbone[name].shape[0]
    raise ValueError(f"Cannot tell the channels from the tensors: neither {conv}.weight nor its norm is there.")


def convolutions(spec: BackboneSpec) -> Iterator[Convolution]:
    """Every convolution of the backbone, in the order of the network. Each is followed by a BatchNorm."""
    channels = spec.written_out
    inputs = channels.stem_out_channels
    yield Convolution(1, 0, "conv1", (inputs, 3, 7, 7))
    for stage in range(2, spec.last_stage + 1):
        outputs = channels.res2_out_channels * 2 ** (stage - 2)
        inner = spec.num_groups * channels.width_per_group * 2 ** (stage - 2)
        for block in range(BLOCKS_PER_STAGE[spec.depth][stage - 2]):
            if inputs != outputs:
                yield Convolution(stage, block, "shortcut", (outputs, inputs, 1, 1))
            if spec.basic:
                shapes = [(outputs, inputs, 3, 3), (outputs, outputs, 3, 3)]
            else:
                shapes = [(inner, inputs, 1, 1), (inner, inner // spec.num_groups, 3, 3), (outputs, inner, 1, 1)]
            for number, shape in enumerate(shapes, start=1):
                yield Convolution(stage, block, f"conv{number}", shape)
            inputs = outputs
