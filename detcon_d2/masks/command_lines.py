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


def generate_command(dataset: str, root: str | os.PathLike, index: dict | None = None, tiles: int | None = None) -> str:
    """The command that makes the label maps of a data set in ``root`` (or continues), with the parameters of an index.

    ``tiles``: side of the tiles, 0 for whole images; None: the index's.
    """
    words = ["python", "tools/generate_masks.py", dataset, os.fspath(root)]
    if index is not None:
        name = index["generator"]
        flags = [word for param, value in index["params"].items() for word in (flag_of(name, param), write_value(value))]
        words += ["--generator", name, *flags, *([] if format_name(index) == "png" else ["--format", format_name(index)])]
    tiles = (index or {}).get("tiles", 0) if tiles is None else tiles
    return shlex.join([*words, *(["--tiles", str(tiles)] if tiles else [])])


def merge_command(root: str | os.PathLike, *options: str) -> str:
    """The command that merges, checks, repairs or converts label maps into ``root``."""
    return shlex.join(["python", "tools/merge_masks.py", os.fspath(root), *options])


def train_hint(dataset: str, root: str | os.PathLike, tiles: int = 0) -> str:
    """The config keys for training with the label maps in ``root``, of whole images or of tiles of this side."""
    values = (shlex.quote(f"({json.dumps(one, ensure_ascii=False)},)") for one in (dataset, os.path.abspath(root)))
    return "train with:  DATASETS.TRAIN {} DETCON.MASKS.ROOTS {}".format(*values) + (f" DETCON.DATA.TILES {tiles}" if tiles else "")
