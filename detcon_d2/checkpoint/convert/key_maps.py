"""Exact key maps: every tensor has one name on each side, made from the network's structure and never by editing strings."""

import itertools
from collections.abc import Callable, Iterable
from functools import lru_cache

from detcon_d2.checkpoint.convert.spec import BackboneSpec, Convolution, convolutions

BRANCHES = {"online": "encoder.", "ema": "target.encoder."}
"""Encoder branch -> prefix of its tensors in a pretraining checkpoint."""
TARGETS = ("detectron2", "torchvision", "timm")
"""Whose names the converted tensors get."""
# BatchNorm's tensors; the count of batches is a scalar, the others hold one value per channel.
_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# More blocks than any stage of any ResNet has.
_MANY = 64


def backbone_shapes(spec: BackboneSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor of the backbone, by Detectron2's name without a prefix, with its shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in convolutions(spec):
        shapes[f"{conv.name}.weight"] = conv.shape
        for tensor in _NORM_TENSORS:
            shapes[f"{conv.name}.norm.{tensor}"] = () if tensor == "num_batches_tracked" else conv.shape[:1]
    return shapes


def target_keys(target: str, spec: BackboneSpec) -> dict[str, str]:
    """Name of every tensor of the backbone -> its key in a Mask R-CNN FPN or, for "torchvision" and "timm", in their ResNets, whose ``fc``
    has no counterpart."""
    if target == "detectron2":
        return {name: f"backbone.bottom_up.{name}" for name in backbone_shapes(spec)}
    return family_keys("torchvision", spec)


def _torch_keys(conv: str, norm: str) -> dict[str, str]:
    return {"weight": f"{conv}.weight", **{f"norm.{tensor}": f"{norm}.{tensor}" for tensor in _NORM_TENSORS}}


def _resnet_names(stem: tuple[str, str], stage: str, first: int) -> Callable[[Convolution], dict[str, str]]:
    """Names of torchvision's ResNet: ``stem`` is its convolution and norm, ``stage`` comes before a stage's number, ``first`` for res2."""

    def names(conv: Convolution) -> dict[str, str]:
        if conv.stage == 1:
            return _torch_keys(*stem)
        place = f"{stage}{conv.stage - 2 + first}.{conv.block}."
        if conv.part == "shortcut":
            return _torch_keys(f"{place}downsample.0", f"{place}downsample.1")
        return _torch_keys(f"{place}{conv.part}", f"{place}bn{conv.part[-1]}")

    return names


def _haiku_modules(conv: Convolution) -> tuple[str, str]:
    """Names of a convolution and its norm in their block, or as the stem."""
    if conv.stage == 1:
        return "initial_conv", "initial_batchnorm"
    if conv.part == "shortcut":
        return "shortcut_conv", "shortcut_batchnorm"
    index = int(conv.part[-1]) - 1
    return f"conv_{index}", f"batchnorm_{index}"


def _haiku_torch_names(conv: Convolution) -> dict[str, str]:
    """Haiku's names as modules of torch: ``block_groups.block_group_0.blocks.block_0.conv_0.weight`` and its norm."""
    place = "" if conv.stage == 1 else f"block_groups.block_group_{conv.stage - 2}.blocks.block_{conv.block}."
    return _torch_keys(*(f"{place}{module}" for module in _haiku_modules(conv)))


def _haiku_names(conv: Convolution) -> dict[str, str]:
    """``block_group_0/~/block_0/~/conv_0/w`` and its norm, below the network's own name.

    The running statistics are the ``average`` of Haiku's moving averages (``hidden`` is not corrected for its start at zero).
    """
    place = "" if conv.stage == 1 else f"block_group_{conv.stage - 2}/~/block_{conv.block}/~/"
    name, norm = _haiku_modules(conv)
    return {
        "weight": f"{place}{name}/w",
        "norm.weight": f"{place}{norm}/scale",
        "norm.bias": f"{place}{norm}/offset",
        "norm.running_mean": f"{place}{norm}/~/mean_ema/average",
        "norm.running_var": f"{place}{norm}/~/var_ema/average",
    }


NAMINGS: dict[str, Callable[[Convolution], dict[str, str]]] = {
    "torchvision": _resnet_names(("conv1", "bn1"), "layer", 1),
    "sequential": _resnet_names(("0", "1"), "", 4),  # torchvision's ResNet as nn.Sequential(*resnet.children())
    "staged": _resnet_names(("C1.0", "C1.1"), "C", 2),  # the stages as attributes C1..C5
    "detectron2": lambda conv: _torch_keys(conv.name, f"{conv.name}.norm"),
    "haiku": _haiku_names,
    "haiku-torch": _haiku_torch_names,
}
"""Family of names -> the function from a convolution to its tensors, as Detectron2 calls them after ``<convolution>.``, with their keys."""


def family_keys(family: str, spec: BackboneSpec) -> dict[str, str]:
    """Detectron2's name -> key of a family of :data:`NAMINGS`, for every tensor of the backbone that the family has."""
    return {f"{conv.name}.{tensor}": key for conv in convolutions(spec) for tensor, key in NAMINGS[family](conv).items()}


@lru_cache
def known_keys(family: str) -> dict[str, str]:
    """Key of the family -> Detectron2's name, for every tensor that a ResNet of any depth can have."""
    parts = itertools.product(range(2, 6), range(_MANY), ("shortcut", "conv1", "conv2", "conv3"))
    convs = [Convolution(*part, (0, 0, 0, 0)) for part in ((1, 0, "conv1"), *parts)]
    return {key: f"{conv.name}.{tensor}" for conv in convs for tensor, key in NAMINGS[family](conv).items()}


def grouped(keys: Iterable[str]) -> list[str]:
    """Keys in few lines: those of one module together, as ``res2.0.conv1.norm.{bias, weight}``; Haiku's modules end in a slash."""
    modules: dict[str, list[str]] = {}
    for key in keys:
        split = max(key.rfind("."), key.rfind("/")) + 1
        modules.setdefault(key[:split], []).append(key[split:])
    # Keys without a module have nothing in common.
    alone = modules.pop("", [])
    lines = [f"{module}{tensors[0] if len(tensors) == 1 else '{' + ', '.join(tensors) + '}'}" for module, tensors in modules.items()]
    return lines + alone
