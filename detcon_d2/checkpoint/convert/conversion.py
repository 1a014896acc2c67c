"""A checkpoint of any known style -> tensors under the names of Detectron2, torchvision or timm: complete and exact, or an error."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint.convert.key_maps import BRANCHES, TARGETS, target_keys
from detcon_d2.checkpoint.convert.readers import Backbone, read_checkpoint
from detcon_d2.checkpoint.convert.spec import BackboneSpec
from detcon_d2.checkpoint.zoo.download import file_digest

_DEPTHS = {"torchvision": (18, 34, 50, 101, 152), "timm": (18, 34, 50, 101, 152, 200)}
_PLAIN_PADDING = (
    "Plain padding in place of it costs about 20 % relative difference of res5 at 224 pixels (random weights); at sizes 32k + 1 the two "
    "are equal."
)


@dataclass(frozen=True)
class Conversion:
    """A checked and renamed backbone, before anything is written."""

    path: Path
    """The file that it is from."""
    backbone: Backbone
    target: str
    tensors: dict[str, torch.Tensor]
    """The backbone's tensors under the target's names."""
    metadata: dict[str, Any]

    @property
    def spec(self) -> BackboneSpec:
        """The network."""
        return self.backbone.spec

    def describe(self) -> list[str]:
        """Lines to print: what is converted, its metadata, and notes."""
        lines = [f"{self.path}: {self.spec.describe()}, {self.backbone.branch} encoder, to {self.target}", "metadata"]
        return lines + [f"  {key}: {value}" for key, value in self.metadata.items()] + self.backbone.notes + self._padding_notes()

    def _padding_notes(self) -> list[str]:
        if self.spec.padding != "same":
            return []
        if self.target == "detectron2":
            return [f"padding: trained with SAME padding; the YAML sets DETCON.BACKBONE.PADDING to it. {_PLAIN_PADDING}"]
        return [f"Warning: trained with SAME padding, which {self.target} does not have. {_PLAIN_PADDING}"]


def prepare_conversion(
    path: str | Path,
    branch: str = "online",
    target: str = "detectron2",
    *,
    style: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Conversion:
    """Read a checkpoint, check every tensor of its encoder, and rename them.

    Arguments and errors are those of :func:`~detcon_d2.checkpoint.convert.converter.convert`.
    """
    if branch not in BRANCHES or target not in TARGETS:
        raise ValueError(f"Found encoder {branch!r} and target {target!r}; expected one of {tuple(BRANCHES)} and one of {TARGETS}.")
    path = local_file(path)
    backbone = read_checkpoint(path, style, branch, facts)
    _check_target(backbone.spec, target)
    # A file that was converted before holds one encoder, and its metadata name it.
    kept = backbone.metadata.get("encoder", branch) if "converted_to" in backbone.metadata else branch
    metadata = backbone.metadata | {
        "encoder": kept,
        "converted_to": target,
        "source_file": path.name,
        "source_sha256": file_digest(path, "sha256"),
    }
    keys = target_keys(target, backbone.spec)
    return Conversion(path, backbone, target, {keys[name]: tensor for name, tensor in backbone.tensors.items()}, metadata)


def local_file(path: str | Path) -> Path:
    """The file that a path or a name of Detectron2's PathManager means.

    Raises:
        FileNotFoundError: there is none.
    """
    local = Path(d2.PathManager.get_local_path(str(path)))
    if not local.is_file():
        raise FileNotFoundError(f"No checkpoint at {path}.")
    return local


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
