"""Checkpoints of JAX and Haiku, as DetCon and BYOL were released: their array layouts and outer containers."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

TARGET = "target:"
"""Put before the names of the target network, which has those of the online one."""
# Entries of a dict -> what they begin with in the result; the first three layouts of one network, then the two networks of a run.
_COLLECTIONS = {"params": "", "state": "", "online_params": "", "online_state": "", "target_params": TARGET, "target_state": TARGET}
# Around the networks in a file of the training loop.
_WRAPPER = "experiment_state"
_STATISTICS = re.compile(r"/~/(mean|var)_ema/")


def from_haiku(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Haiku's layout -> torch's: kernels HWIO -> OIHW, the norm's [1, 1, 1, C] -> [C]; ``name`` is Detectron2's.

    A tensor of another shape stays as it is, to be refused by its name.
    """
    if ".norm." not in name:
        return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor
    return tensor.flatten() if tensor.shape[:-1] == (1, 1, 1) else tensor


def haiku_state(data: Any) -> tuple[dict[str, Any], list[str]] | None:
    """The arrays of a file as ``module/leaf``, and the names of what else it holds (optimizer, step, random key); None for no such file.

    Layouts: {params, state}, the same as a tuple, one merged dict, {online_params, online_state, target_params, ...}, and any of them under
    ``experiment_state``, there also as the tuple (online_params, target_params, online_state, target_state, opt_state); modules with a dict
    of leaves each, or flat. Keys of the target network begin with :data:`TARGET`.
    """
    outside: list[str] = []
    if isinstance(data, Mapping) and _WRAPPER in data:
        outside += [str(key) for key in data if key != _WRAPPER]
        data = data[_WRAPPER]
    if isinstance(data, list | tuple):
        data, left = _from_sequence(data)
        outside += left
    if not isinstance(data, Mapping):
        return None
    if not any(key in data for key in _COLLECTIONS):
        data = {"params": data}
    state: dict[str, Any] = {}
    for key, content in data.items():
        if key not in _COLLECTIONS or not isinstance(content, Mapping):
            outside.append(str(key))
            continue
        state |= {f"{_COLLECTIONS[key]}{path}": leaf for path, leaf in _flatten(content)}
    return (state, outside) if any("initial_conv/" in key for key in state) else None


def _from_sequence(items: list[Any] | tuple[Any, ...]) -> tuple[dict[str, Any], list[str]]:
    """Which collection each item is, by its leaves: the first of a kind is the online network's, the second the target's."""
    free = {"params": ["online_params", "target_params"], "state": ["online_state", "target_state"]}
    found, outside = {}, []
    for index, item in enumerate(items):
        keys = [path for path, _ in _flatten(item)] if isinstance(item, Mapping) else []
        kind = "state" if any(_STATISTICS.search(key) for key in keys) else "params"
        if any("initial_" in key for key in keys) and free[kind]:
            found[free[kind].pop(0)] = item
        else:
            outside.append(f"[{index}]")
    return found, outside


def _flatten(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}/")
        else:
            yield path, value
