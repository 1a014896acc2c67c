"""The command lines that messages recommend."""

import os
import shlex

from detcon_d2.masks.arguments import flags_of
from detcon_d2.masks.store.index import format_name


def generate_command(source: str, root: str | os.PathLike, index: dict | None = None) -> str:
    """The command that makes the label maps of ``source`` in ``root`` (or continues), with the parameters of an index."""
    words = ["python", "tools/generate_masks.py", source, os.fspath(root)]
    if index is not None:
        words += ["--generator", index["generator"], *flags_of(index["params"])]
        words += [] if format_name(index) == "png" else ["--format", format_name(index)]
    return shlex.join(words)


def merge_command(root: str | os.PathLike, *options: str) -> str:
    """The command that joins, checks or repairs the label maps in ``root``."""
    return shlex.join(["python", "tools/merge_masks.py", os.fspath(root), *options])


def train_hint(source: str, root: str | os.PathLike) -> str:
    """The config keys for training with the label maps in ``root``."""
    return f"""train with:  DATASETS.TRAIN '("{source}",)' DETCON.MASKS.ROOTS '("{os.path.abspath(root)}",)'"""
