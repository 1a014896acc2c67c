"""A checkpoint of any known style -> weights for Detectron2, torchvision or timm: complete and under exact names, or an error."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint.convert.key_maps import BRANCHES, detectron2_key_map, rename, torchvision_key_map
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.checkpoint.convert.recipe import detectron2_yaml, metadata_json
from detcon_d2.checkpoint.convert.spec import BackboneSpec
from detcon_d2.checkpoint.convert.weights import check_suffix, write_weights
from detcon_d2.checkpoint.zoo.download import file_digest
from detcon_d2.io.atomic import atomic_file

TARGETS = ("detectron2", "torchvision", "timm")
"""Whose names the converted tensors get."""
_DEPTHS = {"torchvision": (18, 34, 50, 101, 152), "timm": (18, 34, 50, 101, 152, 200)}
_PLAIN_PADDING = (
    "Plain padding in place of it costs about 20 % relative difference of res5 at 224 pixels (random weights); at sizes 32k + 1 the two "
    "are equal."
)


@dataclass(frozen=True)
class Conversion:
    """A checked and renamed backbone, before anything is written."""

    source: Path
    branch: str
    target: str
    spec: BackboneSpec
    encoder: dict[str, torch.Tensor]
    """The tensors under Detectron2's names without a prefix, as the pretraining encoder has them."""
    tensors: dict[str, torch.Tensor]
    """The same tensors under the target's names."""
    metadata: dict[str, Any]
    notes: list[str]
    dropped: dict[str, str]
    """Keys of the file that are no backbone -> what they are."""


Verify = Callable[[Conversion, Path, Path], list[str]]
"""Called with the conversion and the two files, complete but not yet in place; returns lines to print, raises ValueError to stop."""


def convert(
    source: str | Path,
    output: str | Path,
    *,
    style: str | None = None,
    branch: str = "online",
    target: str = "detectron2",
    overwrite: bool = False,
    verify: Verify | None = None,
    facts: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write ``output`` and beside it what its user needs: the matching YAML (detectron2) or the metadata as JSON.

    A network that no config builds (``blocks`` among the facts) gets the JSON for Detectron2 too.

    Both files appear complete or not at all; ``source`` is only read.

    Args:
        source: a checkpoint of any style, or a name that Detectron2's PathManager resolves to one.
        output: ``.pth``, ``.safetensors`` or, for Detectron2, ``.pkl``.
        style: one of :data:`~detcon_d2.checkpoint.STYLES`; None detects it.
        branch: "online" or "ema", such as the target network of DetCon_B.
        target: one of :data:`TARGETS`.
        overwrite: replace files that exist.
        verify: the numerical check, see :data:`Verify`.
        facts: metadata that the file does not hold, see :func:`~detcon_d2.checkpoint.read_checkpoint`.

    Returns:
        Lines to print: metadata, notes, results of the check, what was written.

    Raises:
        FileNotFoundError: no ``source``.
        ValueError: anything else that cannot work, with found, expected and remedy.
    """
    source, output = _local(source), Path(os.path.abspath(output))
    check_suffix(output, target)
    _check_paths(source, (output,), overwrite)
    conversion = prepare_conversion(source, branch, target, style=style, facts=facts)
    config = target == "detectron2" and conversion.spec.has_config
    recipe = output.with_suffix(".yaml" if config else ".json")
    _check_paths(source, (recipe,), overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    text = detectron2_yaml(conversion.spec, conversion.metadata, output) if config else metadata_json(conversion.metadata)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        staged, staged_recipe = Path(folder) / output.name, Path(folder) / recipe.name
        write_weights(staged, conversion.tensors, conversion.metadata, target)
        with atomic_file(staged_recipe, sync=True) as file:
            file.write(text.encode())
        checked = verify(conversion, staged, staged_recipe) if verify else ["features: not compared"]
        # The weights come last: where they are, everything is.
        os.replace(staged_recipe, recipe)
        os.replace(staged, output)
    return _describe(conversion) + checked + [f"wrote {output} ({len(conversion.tensors)} tensors)", f"wrote {recipe}"]


def prepare_conversion(
    source: str | Path,
    branch: str = "online",
    target: str = "detectron2",
    *,
    style: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Conversion:
    """Read ``source``, check every tensor of the encoder, and rename them; arguments and errors as :func:`convert`."""
    if branch not in BRANCHES or target not in TARGETS:
        raise ValueError(f"Found encoder {branch!r} and target {target!r}; expected one of {tuple(BRANCHES)} and one of {TARGETS}.")
    source = _local(source)
    backbone = read_checkpoint(source, style, branch, facts)
    spec = backbone.spec
    _check_target(spec, target)
    # A file that was converted before says itself which encoder it holds; it has that one only.
    kept = backbone.metadata.get("encoder", branch) if "converted_to" in backbone.metadata else branch
    metadata = backbone.metadata | {
        "encoder": kept,
        "converted_to": target,
        "source_file": source.name,
        "source_sha256": file_digest(source, "sha256"),
    }
    key_map = detectron2_key_map(spec, branch) if target == "detectron2" else torchvision_key_map(spec, branch)
    chosen = {f"{BRANCHES[branch]}{name}": tensor for name, tensor in backbone.tensors.items()}
    notes = backbone.notes + _padding_notes(spec, target)
    return Conversion(source, branch, target, spec, backbone.tensors, rename(chosen, key_map), metadata, notes, backbone.dropped)


def _local(source: str | Path) -> Path:
    """The file that a path or a name of the PathManager stands for."""
    local = Path(d2.PathManager.get_local_path(str(source)))
    if not local.is_file():
        raise FileNotFoundError(f"No checkpoint at {source}.")
    return local


def _padding_notes(spec: BackboneSpec, target: str) -> list[str]:
    if spec.padding != "same":
        return []
    if target == "detectron2":
        return [f"padding: trained with SAME padding; the YAML sets DETCON.BACKBONE.PADDING to it. {_PLAIN_PADDING}"]
    return [f"Warning: trained with SAME padding, which {target} does not have. {_PLAIN_PADDING}"]


def _check_paths(source: Path, outputs: tuple[Path, ...], overwrite: bool) -> None:
    for path in outputs:
        if path.exists() and path.samefile(source):
            raise ValueError(f"OUTPUT {path} is INPUT itself, which is never changed. Name another file.")
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists. Name another OUTPUT, or give --overwrite to replace it.")


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


def _describe(conversion: Conversion) -> list[str]:
    lines = [f"{conversion.source}: {conversion.spec.describe()}, {conversion.branch} encoder, to {conversion.target}", "metadata"]
    lines += [f"  {key}: {value}" for key, value in conversion.metadata.items()]
    return lines + conversion.notes
