"""The store of a folder, by the format in its index or by the name of a format."""

import os
import shlex
from pathlib import Path

from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.store.index import SHARDS, format_name, read_index
from detcon_d2.masks.store.png_folder import LabelMapStore
from detcon_d2.masks.store.tar_folder import TarStore

STORES: dict[str, type[LabelMapStore]] = {cls.format: cls for cls in (LabelMapStore, TarStore)}
"""Short name of a format -> class."""


def open_store(root: str | os.PathLike) -> LabelMapStore:
    """The store in a folder. Raises ValueError if it is none, its index is damaged, or it has shards, a format of earlier versions."""
    name = format_name(read_index(Path(root)))
    if name == SHARDS:
        command = shlex.join(["python", "tools/merge_masks.py", f"{os.path.normpath(root)}_tar", os.fspath(root), "--format", "tar"])
        raise ValueError(
            f"{root}: found label maps in shards, which are no longer read; expected PNGs or tars. Convert them with: {command}"
        )
    return STORES[name](root)


def create_store(
    root: str | os.PathLike, generator: RegionGenerator, dataset: str, file_format: str = "png", **options: int
) -> LabelMapStore:
    """A store for the label maps of a generator in the format "png" or "tar"; options as of :meth:`LabelMapStore.create`."""
    return STORES[file_format].create(root, generator.name, generator.params(), dataset, layers=generator.layers, **options)
