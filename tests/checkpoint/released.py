"""Checkpoints as JAX and Haiku write them, in every outer layout; the names are spelt out here, not taken from the package."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detcon_d2.checkpoint.convert.key_maps import backbone_shapes
from detcon_d2.checkpoint.convert.spec import BackboneSpec

Tree = dict[str, dict[str, np.ndarray]]
_LEAVES = {"weight": "scale", "bias": "offset"}
_AVERAGES = {"running_mean": "mean_ema", "running_var": "var_ema"}


def backbone_tensors(spec: BackboneSpec, seed: int = 0) -> dict[str, torch.Tensor]:
    """Drawn tensors by Detectron2's names, without the counts of batches, which Haiku does not keep; features stay in range."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in backbone_shapes(spec).items():
        if len(shape) == 4:
            tensors[name] = torch.randn(shape, generator=generator) / (shape[1] * shape[2] * shape[3]) ** 0.5
        elif shape:
            tensors[name] = torch.rand(shape, generator=generator) * 0.5 + 0.5
    return tensors


def haiku_trees(tensors: dict[str, torch.Tensor], root: str = "res_net50") -> tuple[Tree, Tree]:
    """(params, state) of these tensors: a dict of leaves for each module, with the heads that the released files have."""
    params: Tree = {"projector/linear": {"w": np.ones((4, 2), np.float32)}, "predictor/linear_1": {"w": np.ones((2, 4), np.float32)}}
    params |= {"classifier": {"b": np.ones(3, np.float32)}}
    state: Tree = {"projector/batch_norm/~/mean_ema": {"average": np.ones((1, 1, 4), np.float32), "counter": np.int32(3)}}
    for name, tensor in tensors.items():
        conv, _, leaf = name.partition(".norm.")
        if not leaf:
            module = _module(conv.removesuffix(".weight"), root, "conv")
            params.setdefault(module, {})["w"] = tensor.permute(2, 3, 1, 0).contiguous().numpy()
            continue
        module, value = _module(conv, root, "batchnorm"), tensor.reshape(1, 1, 1, -1).numpy()
        if leaf in _LEAVES:
            params.setdefault(module, {})[_LEAVES[leaf]] = value
        else:
            state[f"{module}/~/{_AVERAGES[leaf]}"] = {"average": value, "hidden": value * 0.5, "counter": np.asarray(9, np.int32)}
    return params, state


def _module(conv: str, root: str, kind: str) -> str:
    if conv == "stem.conv1":
        return f"{root}/~/initial_{kind}"
    stage, block, part = re.fullmatch(r"res(\d)\.(\d+)\.(\w+)", conv).groups()
    last = f"shortcut_{kind}" if part == "shortcut" else f"{kind}_{int(part[-1]) - 1}"
    return f"{root}/~/block_group_{int(stage) - 2}/~/block_{block}/~/{last}"


def _flat(tree: Tree) -> dict[str, np.ndarray]:
    return {f"{module}/{leaf}": value for module, leaves in tree.items() for leaf, value in leaves.items()}


# Layout -> (params, state, target params, target state) -> the object in the file.
LAYOUTS: dict[str, Callable[[Tree, Tree, Tree, Tree], Any]] = {
    "params and state": lambda p, s, tp, ts: {"params": p, "state": s},
    "tuple": lambda p, s, tp, ts: (p, s),
    "merged": lambda p, s, tp, ts: p | s,
    "flat": lambda p, s, tp, ts: _flat(p) | _flat(s),
    "flat params and state": lambda p, s, tp, ts: {"params": _flat(p), "state": _flat(s)},
    "online": lambda p, s, tp, ts: {"online_params": p, "online_state": s},
    "online and target": lambda p, s, tp, ts: {"online_params": p, "target_params": tp, "online_state": s, "target_state": ts},
    "experiment": lambda p, s, tp, ts: {
        "experiment_state": {"online_params": p, "target_params": tp, "online_state": s, "target_state": ts, "opt_state": ({}, p)},
        "step": 300,
    },
    "experiment tuple": lambda p, s, tp, ts: {"experiment_state": (p, tp, s, ts, ({}, p)), "step": 300, "rng": np.zeros(2, np.uint32)},
}
WITH_TARGET = ("online and target", "experiment", "experiment tuple")


def write_npy(path: Path, content: Any) -> Path:
    """A 0-d array of one object, as the released files are."""
    array = np.empty((), dtype=object)
    array[()] = content
    np.save(path, array, allow_pickle=True)
    return path
