"""Writing converted weights: ``.pkl`` and ``.pth`` for stock Detectron2, ``.safetensors`` for this package's tools."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detcon_d2.checkpoint.safe_load.files import require_safetensors
from detcon_d2.io.atomic import atomic_file


def check_suffix(path: Path, target: str) -> None:
    """ValueError unless the file's suffix is a format that can be written for ``target`` ("detectron2", "torchvision", "timm")."""
    suffixes = (".pth", ".safetensors", ".pkl") if target == "detectron2" else (".pth", ".safetensors")
    if path.suffix not in suffixes:
        raise ValueError(f"OUTPUT {path} ends in {path.suffix!r}; expected {', '.join(suffixes)} for {target}.")
    if path.suffix == ".safetensors":
        require_safetensors()


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
