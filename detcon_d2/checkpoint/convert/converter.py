"""Converted weights as files: complete, checked, and with a config that fits them, so that nobody has to know which keys matter."""

import json
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from detcon_d2 import d2
from detcon_d2.checkpoint.convert.key_maps import TARGETS, target_keys
from detcon_d2.checkpoint.convert.pyramid import KEYS as PYRAMID_KEYS
from detcon_d2.checkpoint.convert.pyramid import pyramid_metadata
from detcon_d2.checkpoint.convert.readers import Backbone, read_checkpoint
from detcon_d2.checkpoint.convert.rescale import rescale
from detcon_d2.checkpoint.convert.spec import ASSUMED, IMAGE_KEYS, KEYS, BackboneSpec
from detcon_d2.checkpoint.convert.verify import verify_conversion
from detcon_d2.checkpoint.safe_load.files import require_safetensors
from detcon_d2.checkpoint.zoo.download import file_digest
from detcon_d2.io.atomic import atomic_file

_DEPTHS = {"torchvision": (18, 34, 50, 101, 152), "timm": (18, 34, 50, 101, 152, 200)}
_PLAIN_PADDING = (
    "Plain padding in place of it costs about 20 % relative difference of res5 at 224 pixels (random weights); at sizes 32k + 1 the two "
    "are equal."
)
_TEMPLATE = Path(__file__).with_name("mask_rcnn_fpn.yaml")


def convert(
    path: str | Path,
    output: str | Path,
    *,
    style: str | None = None,
    branch: str = "online",
    target: str = "detectron2",
    overwrite: bool = False,
    check: bool = False,
    facts: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    rescaled: bool = False,
) -> list[str]:
    """Write ``output`` and next to it the matching YAML (detectron2) or the metadata as JSON (other targets).

    A network that no config builds (a narrow ResNet-18 or -34) gets the JSON for Detectron2, too. Both files appear complete or not at all;
    the checkpoint is only read.

    Args:
        path: a checkpoint of any style, or a name that Detectron2's PathManager resolves to one.
        output: ``.pth``, ``.safetensors`` or, for Detectron2, ``.pkl``.
        style, branch, facts, prefix: see :func:`~detcon_d2.checkpoint.convert.readers.read_checkpoint`.
        target: one of :data:`~detcon_d2.checkpoint.convert.key_maps.TARGETS`.
        overwrite: replace files that exist.
        check: compare features before and after, see :func:`~detcon_d2.checkpoint.convert.verify.verify_conversion`.
        rescaled: with :func:`~detcon_d2.checkpoint.convert.rescale.rescale`.

    Returns:
        Lines to print: metadata, notes, results of the check, what was written.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: anything else that cannot work, with found, expected and remedy.
    """
    source, output = Path(d2.PathManager.get_local_path(str(path))), Path(os.path.abspath(output))
    if not source.is_file():
        raise FileNotFoundError(f"No checkpoint at {path}.")
    _check_output(source, output, target, overwrite)
    backbone = read_checkpoint(source, style, branch, facts, prefix)
    spec = backbone.spec
    _check_target(spec, target)
    # A file that was converted before holds one encoder, and its metadata name it.
    kept = backbone.metadata.get("encoder", branch) if "converted_to" in backbone.metadata else branch
    made_from = {"source_file": source.name, "source_sha256": file_digest(source, "sha256")}
    metadata = backbone.metadata | {"encoder": kept, "converted_to": target} | made_from
    # Detectron2's FPN alone has the names of the pyramid.
    pyramid = {f"backbone.{name}": tensor for name, tensor in backbone.pyramid.items() if target == "detectron2"}
    metadata = {key: value for key, value in metadata.items() if key not in PYRAMID_KEYS}
    metadata |= pyramid_metadata(backbone.pyramid, spec) if pyramid else {}
    has_yaml = target == "detectron2" and spec.has_config
    companion = output.with_suffix(".yaml" if has_yaml else ".json")
    _check_paths(source, companion, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    keys = target_keys(target, spec)
    tensors, changes = backbone.tensors, []
    if rescaled:
        tensors, line = rescale(tensors, spec)
        metadata["rescaled"], changes = True, [line]
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        staged, staged_companion = Path(folder) / output.name, Path(folder) / companion.name
        write_weights(staged, {keys[name]: tensor for name, tensor in tensors.items()} | pyramid, metadata, target)
        with atomic_file(staged_companion, sync=True) as file:
            file.write((detectron2_yaml(spec, metadata, output) if has_yaml else metadata_json(metadata)).encode())
        checked = verify_conversion(backbone, target, staged, staged_companion, rescaled) if check else ["features: not compared"]
        # The weights come last: if they are in place, everything is.
        os.replace(staged_companion, companion)
        os.replace(staged, output)
    lines = [f"{source}: {spec.describe()}, {branch} encoder, to {target}", "metadata", *(f"  {k}: {v}" for k, v in metadata.items())]
    lines += backbone.notes + changes + _pyramid_notes(backbone, target) + _padding_notes(spec, target) + checked
    return lines + [f"wrote {output} ({len(tensors | pyramid)} tensors)", f"wrote {companion}"]


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any], target: str) -> None:
    """Write the tensors atomically in the format of the suffix.

    ``.pkl`` is ``{model: numpy arrays, __author__, metadata}``; ``.pth`` is ``{model, metadata}`` for Detectron2 and a bare state dict, as
    ``load_state_dict`` takes it, for the others; ``.safetensors`` has the metadata as JSON in its header.
    """
    with atomic_file(path, sync=True) as file:
        if path.suffix == ".pkl":
            arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
            pickle.dump({"model": arrays, "__author__": "detcon_d2", "metadata": dict(metadata)}, file)
        elif path.suffix == ".pth":
            torch.save({"model": dict(tensors), "metadata": dict(metadata)} if target == "detectron2" else dict(tensors), file)
        else:
            header = {"format": "pt", "metadata": json.dumps(dict(metadata))}
            file.write(require_safetensors().torch.save(dict(tensors), header))


def _check_output(path: Path, output: Path, target: str, overwrite: bool) -> None:
    if target not in TARGETS:
        raise ValueError(f"Found target {target!r}; expected one of {', '.join(TARGETS)}.")
    suffixes = (".pth", ".safetensors", ".pkl") if target == "detectron2" else (".pth", ".safetensors")
    if output.suffix not in suffixes:
        raise ValueError(f"OUTPUT {output} ends in {output.suffix!r}; expected {', '.join(suffixes)} for {target}.")
    if output.suffix == ".safetensors":
        require_safetensors()
    _check_paths(path, output, overwrite)


def _check_paths(path: Path, output: Path, overwrite: bool) -> None:
    if output.exists() and output.samefile(path):
        raise ValueError(f"OUTPUT {output} is INPUT itself, which is never changed. Name another file.")
    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists. Name another OUTPUT, or give --overwrite to replace it.")


def _check_target(spec: BackboneSpec, target: str) -> None:
    if target == "detectron2":
        return
    if spec.depth not in _DEPTHS[target] or not spec.is_standard:
        known = ", ".join(map(str, _DEPTHS[target]))
        raise ValueError(f"{target} has no {spec.describe()}; expected a depth of {known} and the published channels. Use --to detectron2.")
    if spec.stride_in_1x1 and not spec.basic:
        raise ValueError(
            f"The checkpoint was trained with MODEL.RESNETS.STRIDE_IN_1X1 True; {target}'s ResNets have the stride in the 3x3 convolution, "
            "so the weights would give other features. Use --to detectron2."
        )


def _pyramid_notes(backbone: Backbone, target: str) -> list[str]:
    if not backbone.pyramid:
        return []
    text = f"feature pyramid of the pretraining ({len(backbone.pyramid)} tensors)"
    return [f"{text}: kept, as the FPN of the detector" if target == "detectron2" else f"{text}: left out, {target}'s ResNet has none"]


def _padding_notes(spec: BackboneSpec, target: str) -> list[str]:
    if spec.padding != "same":
        return []
    if target == "detectron2":
        return [f"padding: trained with SAME padding; the YAML sets DETCON.BACKBONE.PADDING to it. {_PLAIN_PADDING}"]
    return [f"Warning: trained with SAME padding, which {target} does not have. {_PLAIN_PADDING}"]


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
    known, guessed = _with_assumed(metadata)
    config = yaml.safe_load(_TEMPLATE.read_text())
    for key, value in _values(spec, known, weights).items():
        *sections, name = key.split(".")
        node = config
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    source, digest = known["source_file"], known["source_sha256"]
    header = [
        f"Mask R-CNN FPN from {weights.name}",
        f"Written by tools/convert_to_d2.py from {source} (sha256 {digest[:12]}...), {known['encoder']} encoder.",
        "Plain Detectron2 reads it, and so does tools/train_net.py."
        if spec.is_plain
        else "Its backbone is of detcon_d2: run it with detcon_d2's tools/train_net.py (or call add_detcon_config first).",
        'Schedule and heads: protocol "standard", 1x, 16 images per batch. Leave NORM and FREEZE_AT: BatchNorm of self-supervised weights '
        "must adapt.",
        "For data sets of boxes, MODEL.MASK_ON False makes it Faster R-CNN.",
        "MODEL.WEIGHTS is an absolute path: change it when the file moves.",
    ]
    if guessed:
        header.append(f"The checkpoint does not report these settings, so these are DetCon's: {', '.join(guessed)}. Check them.")
    comments = "".join(f"# {line}\n" for line in header)
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
        **{key: known[name] for name, key in PYRAMID_KEYS.items() if name in known},
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32 * 2**index] for index in range(len(levels))],
        "MODEL.RPN.IN_FEATURES": levels,
        "MODEL.ROI_HEADS.IN_FEATURES": levels[:-1],
    }


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Metadata of weights for torchvision or timm; ``mean`` and ``std`` are the pixel statistics for RGB images in [0, 1]."""
    known, guessed = _with_assumed(metadata)
    scaled = {name: [value / 255 for value in known[key]] for name, key in (("mean", "pixel_mean"), ("std", "pixel_std"))}
    return json.dumps(known | scaled | {"assumed": sorted(guessed)}, indent=2) + "\n"


def _with_assumed(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The metadata completed by :data:`ASSUMED`, and the names of the entries that were assumed."""
    return ASSUMED | dict(metadata), [name for name in ASSUMED if name not in metadata]
