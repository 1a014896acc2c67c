"""Merging YAML files into a config, on both backends by a loader that constructs nothing but plain values."""

import os
from collections.abc import Iterator
from typing import Any

import yaml

_BASE = "_BASE_"


def merge_config_file(cfg: Any, path: str) -> None:
    """Merge a YAML file, after the files that its ``_BASE_`` names, into a Detectron2 config (``CfgNode``), in place.

    Detectron2's own default reads tags such as ``!!python/object/apply``, which run code.

    Raises:
        FileNotFoundError: a file of the chain does not exist or cannot be read.
        ValueError: a file of the chain has such a tag, is no YAML of keys and values, or names itself through ``_BASE_``; what
            ``cfg.merge_from_file`` raises stays as it is.
    """
    _check_chain(cfg, path, ())
    cfg.merge_from_file(path, allow_unsafe=False)


def _check_chain(cfg: Any, path: str, above: tuple[str, ...]) -> None:
    """Read the file and its bases, to refuse in one line what the merge would end in; ``above`` are the files that led here."""
    led_here = f", which {above[-1]} names as its {_BASE}," if above else ""
    if os.path.realpath(path) in map(os.path.realpath, above):
        raise ValueError(f"Config file {path} has itself as {_BASE}: {' -> '.join((*above, path))}. Remove one of these entries.")
    try:
        with cfg._open_cfg(path) as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise FileNotFoundError(f"Config file {path}{led_here} cannot be read: {error.strerror or error}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = f" in line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ValueError(f"Config file {path}{led_here} is not plain YAML: {problem}{where}. Tags and objects are not read.") from None
    if not isinstance(content, dict):
        raise ValueError(f"Config file {path}{led_here} holds a {type(content).__name__}; expected keys and values.")
    for base in _bases(content, path):
        _check_chain(cfg, base, (*above, path))


def _bases(content: dict[str, Any], path: str) -> Iterator[str]:
    """Where fvcore looks for the files that ``_BASE_`` names: relative to the file, except for ``~``, URLs and absolute paths."""
    found = content.get(_BASE, [])
    for base in found if isinstance(found, list) else [found]:
        base = os.path.expanduser(str(base))
        yield base if base.startswith(("/", "https://", "http://")) else os.path.join(os.path.dirname(path), base)
