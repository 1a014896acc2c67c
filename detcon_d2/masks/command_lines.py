"""The command lines that messages recommend, and the flags of generator parameters."""

import json
import os
import shlex
from dataclasses import fields

from detcon_d2.masks.generators.base import write_value
from detcon_d2.masks.generators.registry import REGION_GENERATOR_REGISTRY
from detcon_d2.masks.store.index import format_name


def flag_of(generator: str, param: str) -> str:
    """The flag of a parameter, such as ``--min-size``."""
    known = fields(REGION_GENERATOR_REGISTRY[generator]) if generator in REGION_GENERATOR_REGISTRY else ()
    flags = {one.name: one.metadata["flag"] for one in known}
    return flags.get(param) or f"--{param.replace('_', '-')}"


def generate_command(dataset: str, root: str | os.PathLike, index: dict | None = None) -> str:
    """The command that makes the label maps of a data set in ``root`` (or continues), with the parameters of an index."""
    words = ["python", "tools/generate_masks.py", dataset, os.fspath(root)]
    if index is not None:
        name = index["generator"]
        flags = [word for param, value in index["params"].items() for word in (flag_of(name, param), write_value(value))]
        words += ["--generator", name, *flags, *([] if format_name(index) == "png" else ["--format", format_name(index)])]
    return shlex.join(words)


def merge_command(root: str | os.PathLike, *options: str) -> str:
    """The command that merges, checks, repairs or converts label maps into ``root``."""
    return shlex.join(["python", "tools/merge_masks.py", os.fspath(root), *options])


def train_hint(dataset: str, root: str | os.PathLike) -> str:
    """The config keys for training with the label maps in ``root``."""
    values = (shlex.quote(f"({json.dumps(one, ensure_ascii=False)},)") for one in (dataset, os.path.abspath(root)))
    return "train with:  DATASETS.TRAIN {} DETCON.MASKS.ROOTS {}".format(*values)
