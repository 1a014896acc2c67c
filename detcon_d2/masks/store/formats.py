"""The store of a folder, by the format in its index or by the name of a format."""

import os
import shlex
from pathlib import Path

from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.store.index import SHARDS, format_name, read_index
from detcon_d2.masks.store.png_folder import LabelMapStore
from detcon_d2.masks.store.tar_folder import IMAGES_PER_FILE, TarStore

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
    root: str | os.PathLike,
    generator: RegionGenerator,
    dataset: str,
    file_format: str = "png",
    *,
    same_images: bool = False,
    images_per_file: int = IMAGES_PER_FILE,
) -> LabelMapStore:
    """A store for the label maps of a generator; see :meth:`LabelMapStore.create`.

    Args:
        root: the folder.
        generator: makes the label maps.
        dataset: data set spec or catalog name.
        file_format: "png" or "tar".
        same_images: accept another data set.
        images_per_file: of tars, for images that are in no tar themselves.
    """
    options = {"images_per_file": images_per_file} if file_format == TarStore.format else {}
    return STORES[file_format].create(
        root, generator.name, generator.params(), dataset, layers=generator.layers, same_images=same_images, **options
    )
