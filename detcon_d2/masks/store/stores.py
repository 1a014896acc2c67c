"""A store by the name of its format, or by what stands in its index."""

import os
from pathlib import Path

from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.store.index import format_name, read_index
from detcon_d2.masks.store.packed import IMAGES_PER_FILE
from detcon_d2.masks.store.shards import ShardStore
from detcon_d2.masks.store.storage import LabelMapStore, Store
from detcon_d2.masks.store.tar import TarStore

STORES = {cls.format: cls for cls in (LabelMapStore, ShardStore, TarStore)}
"""Short name of a format -> class."""


def open_store(root: str | os.PathLike) -> Store:
    """The store in a folder, whatever its format. Raises ValueError if it is none, or its index is damaged."""
    return STORES[format_name(read_index(Path(root)))](root)


def create_store(
    root: str | os.PathLike,
    generator: RegionGenerator,
    source: str,
    file_format: str = "png",
    *,
    same_images: bool = False,
    images_per_file: int = IMAGES_PER_FILE,
) -> Store:
    """A store for what a generator makes; see :meth:`Store.create`.

    Args:
        root: the folder.
        generator: of the label maps.
        source: data set spec or catalog name.
        file_format: "png", "shards" or "tar".
        same_images: accept another source.
        images_per_file: of shards, and of tars for images that are in none.
    """
    options = {} if file_format == LabelMapStore.format else {"images_per_file": images_per_file}
    return STORES[file_format].create(
        root, generator.name, generator.params(), source, layers=generator.layers, same_images=same_images, **options
    )
