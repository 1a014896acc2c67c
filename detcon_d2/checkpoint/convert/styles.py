"""Checkpoint styles: where a publisher's file keeps its backbone, under which names; and which style explains every key of a file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from detcon_d2.checkpoint.convert.haiku import haiku_state
from detcon_d2.checkpoint.convert.key_maps import NAMINGS, known_keys
from detcon_d2.checkpoint.convert.spec import IMAGENET

COMMON: dict[str, Any] = {"channel_order": "RGB", **IMAGENET, "stride_in_1x1": False, "norm": "BN", "padding": "symmetric"}
"""What is true of most files although they do not say it: torchvision's network and images."""
_WRAPPER = re.compile(r"(?<![^.])(module|_orig_mod)\.")
"""What wrappers (DistributedDataParallel, torch.compile) put before the names of what they wrap: the model or a part of it."""
_NAMINGS = tuple(naming for naming in NAMINGS if naming != "haiku")


_PLACES = ("state_dict", "model", "", "module", "net", "network", "encoder", "backbone", "resnet", "model_state_dict")


@dataclass(frozen=True)
class Style:
    """One way to publish a backbone. ``publishers.yaml``, the table of all styles, explains the fields."""

    name: str
    publishes: str
    online: Sequence[str]
    ema: Sequence[str] = ()
    naming: str = "torchvision"
    states: Sequence[Sequence[str]] = tuple((place,) for place in _PLACES)
    drops: Mapping[str, str] = field(default_factory=dict)
    marks: str = ""
    facts: Mapping[str, Any] = field(default_factory=lambda: COMMON)
    note: str = ""
    detected: bool = True


def _style(name: str, row: dict[str, Any]) -> Style:
    if "facts" in row:
        row["facts"] = {} if row["facts"] is None else COMMON | row["facts"]
    if row.pop("from_code", False):
        row["note"] = f"Read from the publisher's code; no published file was at hand. {row.get('note', '')}".strip()
    return Style(name, **row)


STYLES: dict[str, Style] = {
    name: _style(name, row) for name, row in yaml.safe_load(Path(__file__).with_name("publishers.yaml").read_text("utf-8")).items()
}
"""Every style by its name."""


@dataclass(frozen=True)
class Match:
    """A file's keys in the terms of one style."""

    style: Style
    place: str  # where the state dict is in the file
    prefix: str | None  # what comes before the backbone's names; None where the branch is absent
    backbone: dict[str, Any]  # Detectron2's name -> array or tensor, as it is in the file
    keys: dict[str, str]  # Detectron2's name -> key of the style, without the prefix
    dropped: dict[str, str]  # key of what is not part of the backbone -> reason
    unknown: list[str]  # keys that no rule of the style explains
    marked: bool  # a key that only this style has is present
    also: tuple[str, ...] = ()  # other styles that read the file alike
    pyramid: Mapping[str, Any] = field(default_factory=dict)  # of a feature pyramid on the backbone, by Detectron2's names, as in the file

    def describe(self) -> str:
        """Which style, and why."""
        where = f" in {self.place!r}" if self.place else ""
        under = f" under {self.prefix!r}" if self.prefix else ""
        also = f"; equally {', '.join(self.also)}" if self.also else ""
        names = [name for name in self.backbone if name.startswith("res2.")] or list(self.backbone)
        example = f"{self.prefix or ''}{self.keys[names[0]]}" if names else "none"
        return f"style {self.style.name}: {len(self.backbone)} tensors of a ResNet{under}{where}, in names such as {example}{also}"


def match_file(data: Any, style: str | None, branch: str, prefix: str | None = None) -> Match:
    """Find the style of a file's content (``style`` None), or read it in the style that is given; ``branch`` is "online" or "ema".

    With ``prefix`` only the tensors whose names begin with it are read, in the names of any family or of the style that is given.

    A style fits when the stem's convolution is where it should be. Of those that fit, the one that leaves the fewest keys unknown is taken,
    and of equals that read the file alike, the first of the table.

    Raises ValueError: no style or several fit, with the known styles and the first keys.
    """
    if style is not None and style not in STYLES:
        raise ValueError(f"Found style {style!r}; expected one of {', '.join(STYLES)}.")
    if prefix is not None:
        return _match_prefix(data, style, prefix)
    if style is not None:
        match = _match(STYLES[style], data, branch)
        if match is None:
            raise ValueError(f"is not of style {style}: no backbone where that style has it. {_contents(data)}")
        return match
    found = [match for row in STYLES.values() if row.detected and (match := _match(row, data, branch)) and match.marked]
    known = f"Known styles: {', '.join(STYLES)} (tools/convert_to_d2.py --list-styles). Of others, --prefix names the ResNet."
    if not found:
        problem = "is of no known style: no ResNet's first convolution under any of their names."
        if not _has_tensor(data):
            problem = "holds no state dict: expected a dict of tensors, such as a DetCon pretraining checkpoint."
        raise ValueError(f"{problem} {_contents(data)} {known}")
    fewest = min(len(match.unknown) for match in found)
    first, *others = (match for match in found if len(match.unknown) == fewest)
    if any(_reading(first) != _reading(other) for other in others):
        names = ", ".join(match.style.name for match in (first, *others))
        raise ValueError(f"could be of several styles that read it differently: {names}. Choose one with --from. {_contents(data)} {known}")
    return replace(first, also=tuple(match.style.name for match in others))


def _match_prefix(data: Any, style: str | None, prefix: str) -> Match:
    """Read the ResNet under a prefix, given with or without the names of the dicts around it and of wrappers."""
    base = STYLES[style or "bare"]
    prefix = _WRAPPER.sub("", f"{prefix.rstrip('.')}." if prefix else "")
    found = []
    for place in _places(data):
        start = re.escape(prefix.removeprefix(f"{place}.") if place else prefix)
        drops = {"outside the prefix": f"(?!{start})", "classifier": rf"{start}fc\."}
        for naming in [base.naming] if style else _NAMINGS:
            match = _match(replace(base, online=[start], ema=(), states=[[place]], drops=drops, naming=naming), data, "online")
            found += [match] if match else []
    if not found:
        raise ValueError(f"has no ResNet whose names begin with {prefix!r}. {_contents(data)}")
    return max(found, key=lambda match: len(match.backbone))


def _places(data: Any, place: str = "") -> Iterator[str]:
    """The dotted paths of the dicts in a file that hold tensors."""
    if isinstance(data, Mapping):
        if any(map(_is_tensor, data.values())):
            yield place
        for key, value in data.items():
            yield from _places(value, f"{place}.{key}" if place else str(key))


def _match(style: Style, data: Any, branch: str) -> Match | None:
    for place, state, outside in _states(style, data):
        prefixes = {"online": _prefix(style, style.online, state), "ema": _prefix(style, style.ema, state)}
        if any(prefix is not None for prefix in prefixes.values()):
            return _sort(style, branch, place, state, prefixes, outside)
    return None


def _states(style: Style, data: Any) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Every state dict that the style could mean: its place, its tensors without the names of wrappers, and what else the file holds."""
    if style.naming == "haiku":
        collected = haiku_state(data)
        if collected is not None:
            yield "", _tensors(collected[0]), collected[1] + _others(collected[0])
        return
    for paths in style.states:
        parts = {path: content for path in paths if isinstance(content := _follow(data, path), Mapping)}
        if paths[0] not in parts:
            continue
        state: dict[str, Any] = {}
        roots = {path.partition(".")[0] for path in parts}
        others = [] if "" in roots else [str(key) for key in data if key not in roots]
        for path, content in parts.items():
            state |= {f"{path}.{key}" if len(paths) > 1 else key: value for key, value in _tensors(content).items()}
            others += _others(content, f"{path}." if path else "")
        if state:
            yield ", ".join(parts), state, others


def _follow(data: Any, path: str) -> Any:
    for key in path.split(".") if path else []:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray | np.generic)


def _has_tensor(data: Any) -> bool:
    return isinstance(data, Mapping) and any(_is_tensor(value) or _has_tensor(value) for value in data.values())


def _others(content: Mapping[Any, Any], place: str = "") -> list[str]:
    return [f"{place}{key}" for key, value in content.items() if not _is_tensor(value)]


def _tensors(content: Mapping[Any, Any]) -> dict[str, Any]:
    tensors = {str(key): value for key, value in content.items() if _is_tensor(value)}
    unwrapped = {_WRAPPER.sub("", key): value for key, value in tensors.items()}
    return unwrapped if len(unwrapped) == len(tensors) else tensors


def _prefix(style: Style, patterns: Sequence[str], state: Mapping[str, Any]) -> str | None:
    """The prefix of the first pattern with exactly one stem; the stem's norm decides where its kernel is missing."""
    stems = [key for key, name in known_keys(style.naming).items() if name.startswith("stem.")]
    for stem in stems:
        for pattern in patterns:
            found = {key.removesuffix(stem) for key in state if key.endswith(stem)}
            fitting = [prefix for prefix in found if re.fullmatch(pattern, prefix)]
            if len(fitting) == 1:
                return fitting[0]
    return None


def _sort(
    style: Style, branch: str, place: str, state: Mapping[str, Any], prefixes: Mapping[str, str | None], outside: Sequence[str]
) -> Match:
    """Sort the keys of a state dict, given the prefixes of the two encoders."""
    names, prefix, (other,) = known_keys(style.naming), prefixes[branch], prefixes.keys() - {branch}
    backbone, keys, pyramid, unknown = {}, {}, {}, []
    dropped = dict.fromkeys(outside, "not part of the network")

    def short(key: str, start: str | None) -> str | None:
        """The key's name in the style, where it belongs to the encoder that begins with ``start``."""
        return key[len(start) :] if start is not None and key.startswith(start) and key[len(start) :] in names else None

    def level(key: str, start: str | None) -> str | None:
        """The key's name in a feature pyramid that has this encoder as its ``bottom_up``."""
        root = (start or "").removesuffix("bottom_up.")
        return key[len(root) :] if style.naming == "detectron2" and root != start and key.startswith(f"{root}fpn_") else None

    for key, value in state.items():
        name = short(key, prefix)
        if name is not None:
            backbone[names[name]], keys[names[name]] = value, name
        elif (name := level(key, prefix)) is not None:
            pyramid[name] = value
        elif reason := next((reason for reason, pattern in style.drops.items() if re.match(pattern, key)), None):
            dropped[key] = reason
        elif (short(key, prefixes[other]) or level(key, prefixes[other])) is not None:
            dropped[key] = f"{other} encoder"
        else:
            unknown.append(key)
    marked = not style.marks or any(re.match(style.marks, key) for key in state)
    return Match(style, place, prefix, backbone, keys, dropped, unknown, marked, pyramid=pyramid)


def _reading(match: Match) -> tuple[Any, ...]:
    """What styles that read a file alike have in common."""
    return match.prefix, match.keys, match.place, dict(match.style.facts)


def _contents(data: Any) -> str:
    """The first keys, those of nested dicts with their place."""
    if not isinstance(data, Mapping):
        return f"It is a {type(data).__name__}."
    lines = [
        f"{key}: {', '.join(map(str, list(value)[:3]))} ..." if isinstance(value, Mapping) and value else str(key)
        for key, value in data.items()
    ]
    return f"Its first keys: {'; '.join(lines[:5]) or 'none'}."
