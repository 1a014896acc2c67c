"""Choices with their reasons, and the config files that hold both."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from detcon_d2 import d2
from detcon_d2.config import add_detcon_config
from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.model_zoo import get_config

_WIDTH = 140


class Choice(NamedTuple):
    """A config key such as "DETCON.VIEWS.SIZE", its value, and why, in a sentence or less."""

    key: str
    value: object
    reason: str


def chosen_config(base: str, choices: Sequence[Choice]) -> "d2.CfgNode":
    """A config of the model zoo with the choices in it; of several for one key the last counts."""
    cfg = get_config(base)
    cfg.merge_from_list([part for choice in choices for part in choice[:2]])
    return cfg


def write_config(path: Path, title: str, base: str, choices: Sequence[Choice]) -> None:
    """Write all keys that differ from the defaults, and all choices, with the reasons as comments."""
    defaults = d2.get_cfg()
    add_detcon_config(defaults)
    reasons = {choice.key: choice.reason for choice in choices}
    head = textwrap.wrap(f"{title} Keys without a comment are those of configs/{base}, which says why.", _WIDTH - 2)
    lines = [*(f"# {line}" for line in head), *_lines(chosen_config(base, choices), defaults, reasons, "", 0)]
    write_bytes_atomically(path, ("\n".join(lines) + "\n").encode())


def _lines(node: Mapping, defaults: Mapping, reasons: Mapping[str, str], prefix: str, depth: int) -> Iterator[str]:
    space = "  " * depth
    for key, value in sorted(node.items(), key=lambda item: isinstance(item[1], Mapping)):
        name = prefix + key
        if isinstance(value, Mapping):
            if inner := list(_lines(value, defaults[key], reasons, f"{name}.", depth + 1)):
                yield f"{space}{key}:"
                yield from inner
        elif name in reasons or value != defaults[key] or name == "VERSION":
            line = f"{space}{key}: {_text(value)}"
            comment = reasons.get(name, "")
            if comment and len(line) + len(comment) + 4 > _WIDTH:
                yield from (f"{space}# {part}" for part in textwrap.wrap(comment, _WIDTH - len(space) - 2))
                comment = ""
            yield f"{line}  # {comment}" if comment else line


def _text(value: object) -> str:
    """JSON is YAML, except for floats without a point, which YAML 1.1 takes for text."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float):
        mantissa, exponent, power = repr(value).partition("e")
        return f"{mantissa}{'' if '.' in mantissa else '.0'}{exponent}{power}" if exponent else mantissa
    return json.dumps(value, ensure_ascii=False)
