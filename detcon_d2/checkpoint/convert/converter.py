"""Converted weights as files: complete, checked, and with what their user needs next to them."""

import json
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detcon_d2.checkpoint.convert.config_yaml import detectron2_yaml, metadata_json
from detcon_d2.checkpoint.convert.conversion import local_file, prepare_conversion
from detcon_d2.checkpoint.convert.verify import verify_conversion
from detcon_d2.checkpoint.safe_load.files import require_safetensors
from detcon_d2.io.atomic import atomic_file


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
) -> list[str]:
    """Write ``output`` and next to it the matching YAML (detectron2) or the metadata as JSON (other targets).

    A network that no config builds (a narrow ResNet-18 or -34) gets the JSON for Detectron2, too.

    Both files appear complete or not at all; the checkpoint is only read.

    Args:
        path: a checkpoint of any style, or a name that Detectron2's PathManager resolves to one.
        output: ``.pth``, ``.safetensors`` or, for Detectron2, ``.pkl``.
        style: one of :data:`~detcon_d2.checkpoint.convert.style.STYLES`; None detects it.
        branch: "online" or "ema", such as the target network of DetCon_B.
        target: one of :data:`~detcon_d2.checkpoint.convert.key_maps.TARGETS`.
        overwrite: replace files that exist.
        check: compare features before and after, see :func:`~detcon_d2.checkpoint.convert.verify.verify_conversion`.
        facts: metadata that the file does not hold, see :func:`~detcon_d2.checkpoint.convert.readers.read_checkpoint`.

    Returns:
        Lines to print: metadata, notes, results of the check, what was written.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: anything else that cannot work, with found, expected and remedy.
    """
    path, output = local_file(path), Path(os.path.abspath(output))
    _check_suffix(output, target)
    _check_paths(path, output, overwrite)
    conversion = prepare_conversion(path, branch, target, style=style, facts=facts)
    has_yaml = target == "detectron2" and conversion.spec.has_config
    companion = output.with_suffix(".yaml" if has_yaml else ".json")
    _check_paths(path, companion, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    text = detectron2_yaml(conversion.spec, conversion.metadata, output) if has_yaml else metadata_json(conversion.metadata)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        staged, staged_companion = Path(folder) / output.name, Path(folder) / companion.name
        write_weights(staged, conversion.tensors, conversion.metadata, target)
        with atomic_file(staged_companion, sync=True) as file:
            file.write(text.encode())
        checked = verify_conversion(conversion, staged, staged_companion) if check else ["features: not compared"]
        # The weights come last: if they are in place, everything is.
        os.replace(staged_companion, companion)
        os.replace(staged, output)
    return conversion.describe() + checked + [f"wrote {output} ({len(conversion.tensors)} tensors)", f"wrote {companion}"]


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


def _check_suffix(path: Path, target: str) -> None:
    suffixes = (".pth", ".safetensors", ".pkl") if target == "detectron2" else (".pth", ".safetensors")
    if path.suffix not in suffixes:
        raise ValueError(f"OUTPUT {path} ends in {path.suffix!r}; expected {', '.join(suffixes)} for {target}.")
    if path.suffix == ".safetensors":
        require_safetensors()


def _check_paths(path: Path, output: Path, overwrite: bool) -> None:
    if output.exists() and output.samefile(path):
        raise ValueError(f"OUTPUT {output} is INPUT itself, which is never changed. Name another file.")
    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists. Name another OUTPUT, or give --overwrite to replace it.")
