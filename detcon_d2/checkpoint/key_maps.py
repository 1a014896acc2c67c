"""Exact key maps: every tensor has one name on each side, made from the network's structure and never by editing strings."""

from collections.abc import Iterable, Mapping

import torch

from detcon_d2.checkpoint.backbone_spec import BackboneSpec, convolutions

BRANCHES = {"online": "encoder.", "ema": "target.encoder."}
"""Encoder branch -> prefix of its tensors in a pretraining checkpoint."""
BACKBONE_PREFIX = "backbone.bottom_up."
"""Prefix of the ResNet's tensors in a Mask R-CNN FPN."""
# BatchNorm's tensors; the count of batches is a scalar, the others hold one value a channel.
_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def backbone_shapes(spec: BackboneSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor of the backbone, by Detectron2's name without a prefix, with its shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in convolutions(spec):
        shapes[f"{conv.name}.weight"] = conv.shape
        for tensor in _NORM_TENSORS:
            shapes[f"{conv.name}.norm.{tensor}"] = () if tensor == "num_batches_tracked" else conv.shape[:1]
    return shapes


def detectron2_key_map(spec: BackboneSpec, branch: str) -> dict[str, str]:
    """Pretraining checkpoint -> Mask R-CNN FPN: ``encoder.*`` ("online") or ``target.encoder.*`` ("ema") -> ``backbone.bottom_up.*``."""
    return {f"{BRANCHES[branch]}{name}": f"{BACKBONE_PREFIX}{name}" for name in backbone_shapes(spec)}


def torchvision_key_map(spec: BackboneSpec, branch: str) -> dict[str, str]:
    """Pretraining checkpoint -> the ResNets of torchvision and timm, which share their names; their ``fc`` has no counterpart."""
    prefix = BRANCHES[branch]
    key_map = {}
    for conv in convolutions(spec):
        key_map[f"{prefix}{conv.name}.weight"] = f"{conv.torchvision}.weight"
        for tensor in _NORM_TENSORS:
            key_map[f"{prefix}{conv.name}.norm.{tensor}"] = f"{conv.torchvision_norm}.{tensor}"
    return key_map


def invert(key_map: Mapping[str, str]) -> dict[str, str]:
    """The map the other way round.

    Raises:
        ValueError: two keys have one target, so that there is no way back.
    """
    inverse = {target: source for source, target in key_map.items()}
    if len(inverse) != len(key_map):
        raise ValueError(f"The key map is not one to one: {len(key_map)} keys, {len(inverse)} targets.")
    return inverse


def rename(state: Mapping[str, torch.Tensor], key_map: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The tensors of ``state`` under their new names; KeyError unless it has exactly the keys of ``key_map``."""
    if state.keys() != key_map.keys():
        raise KeyError(f"The keys differ from the key map's: {sorted(state.keys() ^ key_map.keys())}")
    return {target: state[source] for source, target in key_map.items()}


def grouped(keys: Iterable[str]) -> list[str]:
    """Keys in few lines: those of one module together, as ``res2.0.conv1.norm.{bias, weight}``."""
    modules: dict[str, list[str]] = {}
    for key in keys:
        module, _, tensor = key.rpartition(".")
        modules.setdefault(module, []).append(tensor)
    lines = []
    for module, tensors in modules.items():
        text = tensors[0] if len(tensors) == 1 else "{" + ", ".join(tensors) + "}"
        lines.append(f"{module}.{text}" if module else text)
    return lines
