"""Any checkpoint -> a ResNet's tensors under Detectron2's names: all of them, checked, or an error that lists what does not fit."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detcon_d2.checkpoint.convert.haiku import from_haiku
from detcon_d2.checkpoint.convert.key_maps import BRANCHES, backbone_shapes, family_keys, grouped
from detcon_d2.checkpoint.convert.pyramid import CHANNELS, pyramid_shapes
from detcon_d2.checkpoint.convert.spec import ASSUMED, COUNTED, BackboneSpec, spec_from_tensors
from detcon_d2.checkpoint.convert.styles import Match, match_file
from detcon_d2.checkpoint.metadata import with_defaults
from detcon_d2.checkpoint.safe_load.files import load_checkpoint_file
from detcon_d2.modeling.backbone import PADDINGS

_COUNT = ".num_batches_tracked"
# Modules that a line on dropped keys names one by one.
_LISTED = 8


@dataclass(frozen=True)
class Backbone:
    """A checked backbone, in float32 and torch's layout."""

    style: str
    branch: str
    spec: BackboneSpec
    tensors: dict[str, torch.Tensor]  # by Detectron2's names without a prefix, in the order of the network
    metadata: dict[str, Any]  # what the file, its style and the caller report about it
    dropped: dict[str, str]  # key of the file that is not part of the backbone -> what it is
    notes: list[str]  # lines to print
    pyramid: dict[str, torch.Tensor] = field(default_factory=dict)  # of a feature pyramid that was trained with it, as fpn_lateral2.weight


def read_checkpoint(
    path: str | Path, style: str | None = None, branch: str = "online", facts: Mapping[str, Any] | None = None, prefix: str | None = None
) -> Backbone:
    """Read the backbone of a checkpoint of any style of :data:`~detcon_d2.checkpoint.convert.styles.STYLES`.

    Floating-point tensors become float32; batch counts that the style does not keep are 0. The notes report both.

    Args:
        path: a file that :func:`~detcon_d2.checkpoint.load_checkpoint_file` reads.
        style: its name; None detects it, and the notes give the reason.
        branch: "online" or "ema", the averaged encoder.
        facts: metadata that the file does not hold. They take precedence over what its style and the file itself report: channel_order,
            pixel_mean, pixel_std (three numbers each, in 0..255 units), stride_in_1x1, padding, norm, or anything to keep (method, epochs,
            licence).
        prefix: what comes before the names of the backbone, where no style finds it; the rest of the file is dropped.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: a file that is no safe checkpoint.
        ValueError: unknown style or branch; tensors that are missing, unknown, not finite or of another shape or type, each named.
    """
    if branch not in BRANCHES:
        raise ValueError(f"Found encoder {branch!r}; expected one of {', '.join(BRANCHES)}.")
    facts = _checked_facts(facts or {})
    data = load_checkpoint_file(path)
    try:
        return _backbone(data, match_file(data, style, branch, prefix), branch, facts)
    except ValueError as error:
        raise ValueError(f"{path} {error}" if str(error)[0].islower() else f"{path}: {error}") from None


def _backbone(data: Any, match: Match, branch: str, facts: Mapping[str, Any]) -> Backbone:
    if match.prefix is None:
        kind, other = ("EMA", "online") if branch == "ema" else ("online", "ema")
        reason = f"that style {match.style.name} knows"
        if match.style.name == "detcon_d2":
            reason = f"(keys {BRANCHES[branch] + '*'!r}): the method of this checkpoint keeps none"
        raise ValueError(f"has no {kind} encoder {reason}. Use --encoder {other}.")
    match.dropped.pop("metadata", None)
    tensors = {name: _tensor(value, match.keys[name]) for name, value in match.backbone.items()}
    if match.style.naming == "haiku":
        tensors = {name: from_haiku(name, tensor) for name, tensor in tensors.items()}
    saved = data.get("metadata") if isinstance(data, Mapping) else None
    # Metadata that describe the network are from this package. What they leave open, the style cannot know either.
    ours = isinstance(saved, dict) and "depth" in saved
    metadata = {**(with_defaults(saved) if ours else match.style.facts), **facts}
    if match.style.name != "detcon_d2" and CHANNELS not in metadata:
        # A trained detector's, which belongs to its heads.
        around = match.prefix.removesuffix("bottom_up.")
        match = replace(match, dropped=match.dropped | {around + name: "feature pyramid" for name in match.pyramid}, pyramid={})
    spec, notes = _spec(tensors, metadata)
    notes = [match.describe(), *([match.style.note] if match.style.note else []), *notes, *_describe_dropped(match)]
    if "depth" not in metadata:
        metadata = spec.metadata(counted=True) | metadata
    _check(tensors, match, spec)
    tensors, changed = _uniform(tensors, spec)
    metadata = metadata | {"style": match.style.name}
    return Backbone(match.style.name, branch, spec, tensors, metadata, match.dropped, notes + changed, _pyramid(match.pyramid, spec))


def _checked_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with lists in place of tuples."""
    wrong = [f"{key} (it follows from the tensors)" for key in facts if key in COUNTED]
    allowed = {"channel_order": ("RGB", "BGR"), "padding": PADDINGS, "stride_in_1x1": (True, False)}
    wrong += [f"{k} {facts[k]!r}; expected one of {values}" for k, values in allowed.items() if k in facts and facts[k] not in values]
    for key in ("pixel_mean", "pixel_std"):
        value = facts.get(key, (0, 0, 0))
        if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(x, int | float) for x in value):
            wrong.append(f"{key} {value!r}; expected 3 numbers")
    if wrong:
        raise ValueError(f"These facts about a checkpoint cannot be: {'; '.join(wrong)}.")
    return {key: list(value) if isinstance(value, tuple) else value for key, value in facts.items()}


def _tensor(value: Any, key: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    try:
        # torch takes this machine's byte order only.
        return torch.as_tensor(np.asarray(value, dtype=value.dtype.newbyteorder("=")))
    except TypeError:
        raise ValueError(f"Tensor {key} is an array of {value.dtype}; expected one of float32 (or an integer count of batches).") from None


def _spec(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> tuple[BackboneSpec, list[str]]:
    if "depth" in metadata:
        return BackboneSpec.from_metadata(metadata), []
    spec = replace(
        spec_from_tensors(tensors), **{name: metadata[name] for name in ("stride_in_1x1", "norm", "padding") if name in metadata}
    )
    note = f"The checkpoint has no metadata. From its tensors: {spec.describe()}."
    missing = [key for key in (*ASSUMED, "padding") if key not in metadata]
    if missing:
        note += f" Assumed as in DetCon, check by hand: {', '.join(missing)}."
    return spec, [note]


def _describe_dropped(match: Match) -> list[str]:
    """Every dropped key by name, in groups; of many, the pattern of their names with * for numbers."""
    lines = []
    for reason in dict.fromkeys(match.dropped.values()):
        keys = [key for key, its in match.dropped.items() if its == reason]
        names = grouped(keys)
        if len(names) > _LISTED:
            names = list(dict.fromkeys(re.sub(r"\d+", "*", name) for name in names))
        more = f" and {len(names) - _LISTED} other patterns" if len(names) > _LISTED else ""
        lines.append(f"dropped, {reason}: {', '.join(names[:_LISTED])}{more} ({len(keys)})")
    return lines


def _check(tensors: Mapping[str, torch.Tensor], match: Match, spec: BackboneSpec) -> None:
    """Raise a ValueError that lists every tensor that does not fit, by the file's names without the prefix."""
    keys, shapes = family_keys(match.style.naming, spec), backbone_shapes(spec)
    lines = [f"missing: {key}" for key in grouped(keys[name] for name in keys if name not in tensors and not name.endswith(_COUNT))]
    for name, tensor in tensors.items():
        lines += _misfits(tensor, match.keys[name], shapes[name], is_count=name.endswith(_COUNT)) if name in shapes else []
    inside = [key for key in match.unknown if match.prefix and key.startswith(match.prefix)]
    unexpected = [match.keys[name] for name in tensors if name not in shapes] + [key[len(match.prefix) :] for key in inside]
    lines += [f"unexpected: {key}" for key in grouped(unexpected)]
    lines += [f"unexpected outside the encoder: {key}" for key in grouped(key for key in match.unknown if key not in inside)]
    if not lines:
        return
    try:
        found = spec_from_tensors(tensors)
        differs = (found.depth, found.channels) != (spec.depth, spec.channels)
        other = f" Its metadata and its tensors disagree: the tensors look like a {found.describe()}." if differs else ""
    except ValueError:
        other = ""
    if len(inside) < len(match.unknown):
        other += " --prefix reads the encoder alone."
    listed = "\n  ".join(lines)
    raise ValueError(f"The encoder (style {match.style.name}) is not the {spec.describe()} that it should be.{other}\n  {listed}")


def _pyramid(found: Mapping[str, Any], spec: BackboneSpec) -> dict[str, torch.Tensor]:
    """Own copies of a pyramid's tensors, as :func:`_uniform`; raises a ValueError that lists every one that does not fit the backbone."""
    tensors = {name: _tensor(value, name) for name, value in found.items()}
    shapes = pyramid_shapes(tensors, spec) if tensors else {}
    lines = [f"missing: {key}" for key in shapes if key not in tensors] + [f"unexpected: {key}" for key in tensors if key not in shapes]
    for name in shapes.keys() & tensors.keys():
        lines += _misfits(tensors[name], name, shapes[name], is_count=name.endswith(_COUNT))
    if lines:
        raise ValueError(f"The feature pyramid does not fit the {spec.describe()}:\n  " + "\n  ".join(lines))
    return {name: _copy(tensors[name]) for name in shapes}


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else torch.int64
    return tensor.detach().to(dtype).clone(memory_format=torch.contiguous_format)


def _misfits(tensor: torch.Tensor, key: str, shape: tuple[int, ...], is_count: bool) -> list[str]:
    """The line on a tensor whose shape, type or values cannot be."""
    right_type = not tensor.is_floating_point() and not tensor.is_complex() if is_count else tensor.is_floating_point()
    if tuple(tensor.shape) != shape:
        return [f"wrong shape: {key} is {tuple(tensor.shape)}; expected {shape}"]
    if not right_type:
        return [f"wrong type: {key} is {tensor.dtype}; expected {torch.int64 if is_count else torch.float32}"]
    if not is_count and not torch.isfinite(tensor).all():
        return [f"not finite: {key} has {int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} values NaN or infinite"]
    return []


def _uniform(tensors: Mapping[str, torch.Tensor], spec: BackboneSpec) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Own contiguous copies in float32 and int64, every count of batches present; and lines on what was changed."""
    result = {name: _copy(tensors.get(name, torch.tensor(0))) for name in backbone_shapes(spec)}
    notes = []
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()):
        names = [name for name in result if name in tensors and tensors[name].dtype == dtype]
        if dtype != torch.float32:
            notes.append(f"converted to float32: {len(names)} tensors of {dtype}, such as {names[0]}")
    absent = len(result.keys() - tensors.keys())
    if absent:
        notes.append(f"num_batches_tracked, which the file lacks for {absent} norms, is set to 0 (no computation reads it)")
    return result, notes
