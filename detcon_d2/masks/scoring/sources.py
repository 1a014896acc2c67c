"""What is scored and shown: region generators, and label maps that tools/generate_masks.py made."""

import os

import numpy as np

from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.store.formats import open_store
from detcon_d2.masks.worker import image_rng


class StoredRegions:
    """Reads the label maps in a folder, by the key of the image: uint16 (layers, H, W).

    Raises ValueError for no such folder or a damaged one; when called, for an image without a label map.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self._store = open_store(root)

    def __str__(self) -> str:
        return str(self._store.root)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict) -> np.ndarray:
        return np.stack([self._store.read(record["key"], layer) for layer in range(self._store.layers)])


Source = RegionGenerator | StoredRegions


def named_layers(title: str, source: Source, image: np.ndarray, record: dict) -> list[tuple[str, np.ndarray]]:
    """The label maps of an image, each uint16 (H, W) with its title: ``title``, or ``title [layer]`` if there are several.

    Raises ValueError as the source raises it, or for label maps of another size.
    """
    label_maps = source(image, image_rng(record["key"]), record)
    label_maps = label_maps[None] if label_maps.ndim == 2 else label_maps
    if label_maps.shape[1:] != image.shape[:2]:
        found, expected = (f"{shape[1]} x {shape[0]}" for shape in (label_maps.shape[1:], image.shape[:2]))
        raise ValueError(
            f"the label map of {record['key']} from {source} is {found} (width x height), but {record['file_name']} is {expected}; "
            "expected the same size: make the label maps of these images"
        )
    return [(title if len(label_maps) == 1 else f"{title} [{layer}]", label_map) for layer, label_map in enumerate(label_maps)]
