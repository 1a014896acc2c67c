"""Label maps on disk in the place of a generator, to score and look at what training will read."""

import os

import numpy as np

from detcon_d2.masks.store.stores import open_store


class StoredRegions:
    """Reads the label maps that tools/generate_masks.py made, by the key of the image: uint16 (layers, H, W).

    Args:
        root: their folder.

    Raises:
        ValueError: no such folder, or a damaged one; when called: no label map for the image.
    """

    name = "stored"
    needs_annotations = False

    def __init__(self, root: str | os.PathLike) -> None:
        self._store = open_store(root)
        self.layers = self._store.layers

    def params(self) -> dict:
        return {"root": str(self._store.root)}

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return np.stack([self._store.read(record["key"], layer) for layer in range(self.layers)])

    def advice(self, height: int, width: int) -> str | None:
        return None
