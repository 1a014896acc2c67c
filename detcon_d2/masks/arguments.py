"""Region generators on the command line: a flag for each parameter in the registry, or one text such as ``fh scale=300 min_size=100``."""

import argparse
import os
import shlex
from collections.abc import Callable

from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.generators.registry import REGION_GENERATOR_REGISTRY, build_generator
from detcon_d2.masks.store.stored import StoredRegions

# Flags that are not the parameter's name: "--size" would say too little.
_FLAGS = {"size": "--grid"}
_DEST = "generator_"


def flag_of(param: str) -> str:
    """``min_size`` -> ``--min-size``."""
    return _FLAGS.get(param, f"--{param.replace('_', '-')}")


def flags_of(params: dict) -> list[str]:
    """The command line that gives these parameters, as :func:`generator_from` reads it."""
    return [word for param, value in params.items() for word in (flag_of(param), _to_text(value))]


def add_generator_arguments(parser: argparse.ArgumentParser) -> None:
    """``--generator`` and a flag for each parameter of any registered generator."""
    names = sorted(REGION_GENERATOR_REGISTRY)
    parser.add_argument("--generator", default="fh", choices=names, metavar="NAME", help=f"{', '.join(names)} (default: fh)")
    group = parser.add_argument_group("parameters of the generators (lists: comma separated)")
    defaults = {name: REGION_GENERATOR_REGISTRY[name]().params() for name in names}
    for param in dict.fromkeys(param for name in names for param in defaults[name]):
        users = {name: _to_text(defaults[name][param]) for name in names if param in defaults[name]}
        group.add_argument(flag_of(param), dest=_DEST + param, metavar=_metavar(param), help=_help(param, users))


def generator_from(args: argparse.Namespace) -> RegionGenerator:
    """The generator that the parsed flags describe; raises ValueError as :func:`build_generator`, or for a value of another type."""
    given = {name.removeprefix(_DEST): text for name, text in vars(args).items() if name.startswith(_DEST) and text is not None}
    return _build(args.generator, given)


def parse_generator(text: str) -> RegionGenerator:
    """``NAME param=value ...``, quoted as in a shell, lists comma separated; raises ValueError as :func:`generator_from`."""
    name, *pairs = shlex.split(text) or [""]
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(f"source {text!r}: found {wrong[0]!r}; expected NAME param=value ..., for example 'fh scale=300 min_size=100'")
    return _build(name, {param.replace("-", "_"): value for param, value in (pair.split("=", 1) for pair in pairs)})


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """``--source`` and ``--masks``, both repeatable."""
    parser.add_argument(
        "--source", action="append", default=[], metavar="'NAME param=value ...'",
        help="a generator and its parameters; repeat for several (default: every generator with its defaults)",
    )  # fmt: skip
    parser.add_argument("--masks", action="append", default=[], metavar="DIR", help="label maps made by generate_masks.py; repeatable")


def sources_from(args: argparse.Namespace, annotated: bool) -> dict[str, RegionGenerator]:
    """Title -> source, in the order given, generators first.

    Args:
        args: parsed, with the flags of :func:`add_source_arguments`.
        annotated: whether the images have COCO annotations; if not, these are none of the default sources.

    Raises:
        ValueError: an unknown generator or parameter, or a folder without label maps.
    """
    texts = args.source or ([] if args.masks else _default_names(annotated))
    sources = {text: parse_generator(text) for text in texts}
    names = [os.path.basename(os.path.abspath(root)) for root in args.masks]
    titles = [name if names.count(name) == 1 else root for name, root in zip(names, args.masks)]
    return sources | {title: StoredRegions(root) for title, root in zip(titles, args.masks)}


def _default_names(annotated: bool) -> list[str]:
    classes = REGION_GENERATOR_REGISTRY.values()
    return [cls.name for cls in classes if not getattr(cls, "REQUIRED", ()) and (annotated or not cls.needs_annotations)]


def _build(name: str, texts: dict[str, str]) -> RegionGenerator:
    defaults = REGION_GENERATOR_REGISTRY[name]().params() if name in REGION_GENERATOR_REGISTRY else {}
    # What is not a parameter stays text: build_generator names it.
    values = {param: _to_value(name, param, text, defaults[param]) if param in defaults else text for param, text in texts.items()}
    return build_generator(name, **values)


def _to_value(name: str, param: str, text: str, default: object) -> object:
    if isinstance(default, list | tuple):
        return [_to_value(name, param, part, default[0] if default else 0.0) for part in text.strip("[]").split(",")]
    convert, expected = _READERS[type(default)]
    try:
        return convert(text.strip())
    except (ValueError, KeyError):
        raise ValueError(f"region generator {name!r}: found {param} {text!r}; expected {expected}, such as {_to_text(default)}") from None


_READERS: dict[type, tuple[Callable[[str], object], str]] = {
    bool: ({"true": True, "false": False}.__getitem__, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "text"),
}


def _to_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(_to_text, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _metavar(param: str) -> str:
    return {"size": "N", "masks": "PATH"}.get(param, param.rsplit("_", 1)[-1].upper())


def _help(param: str, users: dict[str, str]) -> str:
    """``users``: generator -> default as text."""
    texts = [REGION_GENERATOR_REGISTRY[name].HELP.get(param) for name in users if hasattr(REGION_GENERATOR_REGISTRY[name], "HELP")]
    text = next(filter(None, texts), "")
    if len(set(users.values())) == 1:
        default = next(iter(users.values()))
    else:
        default = ", ".join(f"{name} {value}" for name, value in users.items())
    return f"{', '.join(users)}: {text}{f' (default: {default})' if default else ''}".replace("%", "%%")
