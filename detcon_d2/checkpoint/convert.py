"""A DetCon pretraining checkpoint -> weights for Detectron2, torchvision or timm: complete and under exact names, or an error."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detcon_d2.checkpoint.backbone_spec import BackboneSpec, spec_from_metadata, spec_from_tensors
from detcon_d2.checkpoint.key_maps import BRANCHES, backbone_shapes, detectron2_key_map, grouped, rename, torchvision_key_map
from detcon_d2.checkpoint.recipe import ASSUMED, detectron2_yaml, metadata_json
from detcon_d2.checkpoint.safe import load_checkpoint_file, write_atomically
from detcon_d2.checkpoint.weights import check_suffix, write_weights

TARGETS = ("detectron2", "torchvision", "timm")
"""Whose names the converted tensors get."""
_DEPTHS = {"torchvision": (18, 34, 50, 101, 152), "timm": (18, 34, 50, 101, 152, 200)}
# What a pretraining checkpoint holds beside the chosen encoder, and a detector has no use for.
_LEFT_BEHIND = (*BRANCHES.values(), "projector.", "target.projector.", "predictor.", "probe.")


@dataclass(frozen=True)
class Conversion:
    """A checked and renamed backbone, before anything is written."""

    source: Path
    branch: str
    target: str
    spec: BackboneSpec
    encoder: dict[str, torch.Tensor]
    """The tensors under the names that the pretraining encoder gives them."""
    tensors: dict[str, torch.Tensor]
    """The same tensors under the target's names."""
    metadata: dict[str, Any]
    notes: list[str]


Verify = Callable[[Conversion, Path, Path], list[str]]
"""Called with the conversion and the two files, complete but not yet in place; returns lines to print, raises ValueError to stop."""


def convert(
    source: str | Path,
    output: str | Path,
    *,
    branch: str = "online",
    target: str = "detectron2",
    overwrite: bool = False,
    verify: Verify | None = None,
) -> list[str]:
    """Write ``output`` and beside it what its user needs: the matching YAML (detectron2) or the metadata as JSON.

    Both files appear complete or not at all; ``source`` is only read.

    Args:
        source: a pretraining checkpoint: ``.pth``, ``.pkl`` or ``.safetensors``.
        output: ``.pth``, ``.safetensors`` or, for Detectron2, ``.pkl``.
        branch: "online" or "ema", the target network of DetCon_B.
        target: one of :data:`TARGETS`.
        overwrite: replace files that exist.
        verify: the numerical check, see :data:`Verify`.

    Returns:
        Lines to print: metadata, notes, results of the check, what was written.

    Raises:
        FileNotFoundError: no ``source``.
        ValueError: anything else that cannot work, with found, expected and remedy.
    """
    source, output = Path(source), Path(os.path.abspath(output))
    recipe = output.with_suffix(".yaml" if target == "detectron2" else ".json")
    check_suffix(output, target)
    _check_paths(source, (output, recipe), overwrite)
    conversion = prepare_conversion(source, branch, target)
    output.parent.mkdir(parents=True, exist_ok=True)
    text = detectron2_yaml(conversion.spec, conversion.metadata, output) if target == "detectron2" else metadata_json(conversion.metadata)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        staged, staged_recipe = Path(folder) / output.name, Path(folder) / recipe.name
        write_weights(staged, conversion.tensors, conversion.metadata, target)
        write_atomically(staged_recipe, lambda file: file.write(text.encode()))
        checked = verify(conversion, staged, staged_recipe) if verify else ["features: not compared (--no-check)"]
        # The weights come last: where they are, everything is.
        os.replace(staged_recipe, recipe)
        os.replace(staged, output)
    return _describe(conversion) + checked + [f"wrote {output} ({len(conversion.tensors)} tensors)", f"wrote {recipe}"]


def prepare_conversion(source: str | Path, branch: str = "online", target: str = "detectron2") -> Conversion:
    """Read ``source``, check every tensor of the encoder, and rename them; arguments and errors as :func:`convert`."""
    source = Path(source)
    if branch not in BRANCHES or target not in TARGETS:
        raise ValueError(f"Found encoder {branch!r} and target {target!r}; expected one of {tuple(BRANCHES)} and one of {TARGETS}.")
    if not source.is_file():
        raise FileNotFoundError(f"No checkpoint at {source}.")
    state, metadata = _read(source)
    encoder = _select(state, branch, source)
    notes = []
    if "depth" in metadata:
        spec = spec_from_metadata(metadata)
    else:
        spec, names = spec_from_tensors(encoder), ", ".join(ASSUMED)
        notes.append(f"The checkpoint has no metadata. From its tensors: {spec.describe()}. Assumed as in DetCon, check by hand: {names}.")
        metadata = _known(spec)
    _check_tensors(state, encoder, spec, source)
    _check_target(spec, target)
    metadata = metadata | {"encoder": branch, "converted_to": target, "source_file": source.name, "source_sha256": _sha256(source)}
    key_map = detectron2_key_map(spec, branch) if target == "detectron2" else torchvision_key_map(spec, branch)
    chosen = {f"{BRANCHES[branch]}{name}": tensor for name, tensor in encoder.items()}
    return Conversion(source, branch, target, spec, encoder, rename(chosen, key_map), metadata, notes)


def _check_paths(source: Path, outputs: tuple[Path, Path], overwrite: bool) -> None:
    for path in outputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise ValueError(f"OUTPUT {path} is INPUT itself, which is never changed. Name another file.")
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists. Name another OUTPUT, or give --overwrite to replace it.")


def _read(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State dict (contiguous tensors on the CPU) and metadata ({} for none)."""
    data = load_checkpoint_file(source)
    state = data.get("model", data) if isinstance(data, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor | np.ndarray) for value in state.values()):
        raise ValueError(f"{source} holds no state dict: expected a DetCon pretraining checkpoint, a dict of tensors under 'model'.")
    tensors = {key: torch.as_tensor(value).clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    metadata = data.get("metadata")
    return tensors, dict(metadata) if isinstance(metadata, dict) else {}


def _select(state: Mapping[str, torch.Tensor], branch: str, source: Path) -> dict[str, torch.Tensor]:
    """The tensors of one encoder, without its prefix."""
    if not any(key.startswith(BRANCHES["online"]) for key in state):
        raise ValueError(f"{source} is no DetCon pretraining checkpoint: no key begins with 'encoder.'. {_guess(state)}")
    prefix = BRANCHES[branch]
    encoder = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    if not encoder:
        raise ValueError(
            f"{source} has no EMA encoder (keys 'target.encoder.*'): only DetCon_B keeps one, and this looks like DetCon_S. "
            "Use --encoder online."
        )
    return encoder


def _guess(state: Mapping[str, torch.Tensor]) -> str:
    if any(key.startswith("backbone.") for key in state):
        return "Its keys begin with 'backbone.': it is converted already, or a detector; MODEL.WEIGHTS takes it as it is."
    if "layer1.0.conv1.weight" in state:
        return "Its keys are those of a ResNet of torchvision or timm; expected a checkpoint that tools/train_net.py wrote in pretraining."
    return f"Its keys are {', '.join(list(state)[:3]) or 'none'} ...; expected a checkpoint that tools/train_net.py wrote in pretraining."


def _check_tensors(state: Mapping[str, torch.Tensor], encoder: Mapping[str, torch.Tensor], spec: BackboneSpec, source: Path) -> None:
    shapes = backbone_shapes(spec)
    lines = [f"missing: {key}" for key in grouped(name for name in shapes if name not in encoder)]
    for name, shape in shapes.items():
        tensor, dtype = encoder.get(name), torch.float32 if shape else torch.int64
        if tensor is not None and tuple(tensor.shape) != shape:
            lines.append(f"wrong shape: {name} is {tuple(tensor.shape)}; expected {shape}")
        elif tensor is not None and tensor.dtype != dtype:
            lines.append(f"wrong type: {name} is {tensor.dtype}; expected {dtype}")
    lines += [f"unexpected: {key}" for key in grouped(name for name in encoder if name not in shapes)]
    lines += [f"unexpected beside the encoder: {key}" for key in grouped(key for key in state if not key.startswith(_LEFT_BEHIND))]
    if lines:
        listed = "\n  ".join(lines)
        raise ValueError(f"The encoder in {source} is not the {spec.describe()} that it should be.{_other(encoder, spec)}\n  {listed}")


def _other(encoder: Mapping[str, torch.Tensor], spec: BackboneSpec) -> str:
    """What the tensors look like, where that is another network."""
    try:
        found = spec_from_tensors(encoder)
    except ValueError:
        return ""
    same = (found.depth, found.channels) == (spec.depth, spec.channels)
    return "" if same else f" Its metadata and its tensors disagree: the tensors look like a {found.describe()}."


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


def _known(spec: BackboneSpec) -> dict[str, Any]:
    """Metadata that the tensors alone give; effective channels stand for the width."""
    channels = {key.lower(): value for key, value in spec.channels.items()}
    return {"depth": spec.depth, "width_multiplier": spec.width_multiplier, **channels}


def _describe(conversion: Conversion) -> list[str]:
    lines = [f"{conversion.source}: {conversion.spec.describe()}, {conversion.branch} encoder, to {conversion.target}", "metadata"]
    lines += [f"  {key}: {value}" for key, value in conversion.metadata.items()]
    return lines + conversion.notes


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
