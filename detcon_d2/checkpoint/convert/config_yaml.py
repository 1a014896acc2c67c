"""The file next to converted weights: a config that fits them, so that nobody has to know which keys matter, or their metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from detcon_d2.checkpoint.convert.spec import ASSUMED, IMAGE_KEYS, KEYS, BackboneSpec

_TEMPLATE = Path(__file__).with_name("mask_rcnn_fpn.yaml")
_HEADER = """\
Mask R-CNN FPN from {weights}
Written by tools/convert_to_d2.py from {file} (sha256 {digest}...), {branch} encoder.
{loader}
Schedule and heads: protocol "standard", 1x, 16 images per batch. Leave NORM and FREEZE_AT: BatchNorm of self-supervised weights must adapt.
For data sets of boxes, MODEL.MASK_ON False makes it Faster R-CNN.
MODEL.WEIGHTS is an absolute path: change it when the file moves.
"""
_PLAIN = "Plain Detectron2 reads it, and so does tools/train_net.py."
_OURS = "Its backbone is of detcon_d2: run it with detcon_d2's tools/train_net.py (or call add_detcon_config first)."


class _Dumper(yaml.SafeDumper):
    """Mappings in blocks and lists in one line, each written out where it occurs."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True))


def detectron2_yaml(spec: BackboneSpec, metadata: Mapping[str, Any], weights: Path) -> str:
    """The text of a config for fine-tuning from ``weights`` (an absolute path).

    It is plain Detectron2's, with a width multiplier written out as channels. Where that cannot build the backbone (depth 200, a wider
    ResNet-18 or -34, SAME padding, no res5) it names ``build_detcon_resnet_fpn_backbone`` and sets DETCON's keys.
    """
    known, guessed = ASSUMED | dict(metadata), _guessed(metadata)
    config = yaml.safe_load(_TEMPLATE.read_text())
    for key, value in _values(spec, known, weights).items():
        *sections, name = key.split(".")
        node = config
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    header = _HEADER.format(
        weights=weights.name,
        file=known["source_file"],
        digest=known["source_sha256"][:12],
        branch=known["encoder"],
        loader=_PLAIN if spec.is_plain else _OURS,
    )
    if guessed:
        header += f"The checkpoint does not report these settings, so these are DetCon's: {', '.join(guessed)}. Check them.\n"
    comments = "".join(f"# {line}\n" for line in header.splitlines())
    return comments + yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _values(spec: BackboneSpec, known: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """Config key -> value, of what depends on the weights."""
    levels = [f"p{number}" for number in range(2, spec.last_stage + 2)]
    backbone = spec.settings() if not spec.is_plain else spec.written_out.settings()
    # Fine-tuning may use any trained BatchNorm; the template's is the usual one.
    unused = (KEYS["norm"], *((KEYS["width_multiplier"], KEYS["padding"]) if spec.is_plain else ()))
    return {
        "MODEL.WEIGHTS": str(weights),
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone" if spec.is_plain else "build_detcon_resnet_fpn_backbone",
        **{key: value for key, value in backbone.items() if key not in unused},
        **{key: known[name] for name, key in IMAGE_KEYS.items()},
        "MODEL.FPN.IN_FEATURES": list(spec.stage_names),
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32 * 2**index] for index in range(len(levels))],
        "MODEL.RPN.IN_FEATURES": levels,
        "MODEL.ROI_HEADS.IN_FEATURES": levels[:-1],
    }


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Metadata of weights for torchvision or timm; ``mean`` and ``std`` are the pixel statistics for RGB images in [0, 1]."""
    known = ASSUMED | dict(metadata)
    scaled = {name: [value / 255 for value in known[key]] for name, key in (("mean", "pixel_mean"), ("std", "pixel_std"))}
    return json.dumps(known | scaled | {"assumed": sorted(_guessed(metadata))}, indent=2) + "\n"


def _guessed(metadata: Mapping[str, Any]) -> list[str]:
    """The names in :data:`ASSUMED` that the checkpoint does not report itself."""
    return [name for name in ASSUMED if name not in metadata]
