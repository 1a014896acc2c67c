"""A feature pyramid that was pretrained with its backbone: Detectron2's FPN, whose tensors keep their names."""

from collections.abc import Mapping
from typing import Any

import torch

from detcon_d2.checkpoint.convert.spec import BackboneSpec

CHANNELS, NORM = "pyramid_channels", "pyramid_norm"
"""Names of a pyramid's entries in the metadata of converted weights: its channels, and what comes after its convolutions."""
KEYS = {CHANNELS: "MODEL.FPN.OUT_CHANNELS", NORM: "MODEL.FPN.NORM"}
"""The same -> config key."""


def pyramid_metadata(tensors: Mapping[str, torch.Tensor], spec: BackboneSpec) -> dict[str, Any]:
    """The entries of :data:`KEYS` by the tensors, such as ``fpn_lateral2.weight``, of a pyramid on all stages of the backbone; nothing
    without tensors. Raises ValueError if the coarsest level is not there."""
    if not tensors:
        return {}
    last = f"fpn_output{spec.last_stage}"
    if f"{last}.weight" not in tensors:
        raise ValueError(f"The feature pyramid lacks {last}.weight; expected a level for each of {', '.join(spec.stage_names)}.")
    with_norm = "SyncBN" if f"{last}.norm.running_mean" in tensors else "GN"
    return {CHANNELS: tensors[f"{last}.weight"].shape[0], NORM: with_norm if f"{last}.norm.weight" in tensors else ""}


def pyramid_shapes(tensors: Mapping[str, torch.Tensor], spec: BackboneSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor that such a pyramid has, with its shape; errors as :func:`pyramid_metadata`."""
    channels, last = pyramid_metadata(tensors, spec)[CHANNELS], f"fpn_output{spec.last_stage}."
    others = {name.removeprefix(last) for name in tensors if name.startswith(last)} - {"weight"}
    shapes: dict[str, tuple[int, ...]] = {}
    for stage in range(2, spec.last_stage + 1):
        inputs = spec.written_out.res2_out_channels * 2 ** (stage - 2)
        kernels = {f"fpn_lateral{stage}": (channels, inputs, 1, 1), f"fpn_output{stage}": (channels, channels, 3, 3)}
        shapes |= {f"{name}.weight": shape for name, shape in kernels.items()}
        shapes |= {f"{name}.{other}": () if other.endswith("tracked") else (channels,) for name in kernels for other in sorted(others)}
    return shapes
