"""Label maps of training images: found up front, read or computed when an image is used."""

import logging
import os
import shlex

import numpy as np

from detcon_d2 import d2
from detcon_d2.masks.generators import build_generator
from detcon_d2.masks.sources import canonical_spec
from detcon_d2.masks.storage import LabelMapStore, read_label_map

logger = logging.getLogger(__name__)

_NAMED_EXAMPLES = 5


def attach_label_maps(records: list[dict], root: str, name: str) -> list[dict]:
    """Copies of ``records`` with ``label_map_file_name``.

    Args:
        records: of one data set.
        root: output folder of tools/generate_masks.py for it.
        name: of the data set, as in DATASETS.TRAIN.

    Raises:
        ValueError: no such folder, no index in it, or label maps missing: how many, the first of them, and the command that makes them.
    """
    if not os.path.isfile(os.path.join(root, "index.json")):
        found = "has no index.json" if os.path.isdir(root) else "does not exist"
        raise ValueError(
            f"DETCON.MASKS.ROOTS names {root!r}, which {found}; expected a folder of label maps for {name!r}. "
            f"Make them with: {_command(name, root)}"
        )
    store = LabelMapStore(root)
    source = canonical_spec(name)
    if store.index.get("source") != source:
        logger.warning("The label maps in %s were made for %s and are used for %s.", root, store.index.get("source"), source)
    present = store.keys()
    missing = [record["key"] for record in records if record["key"] not in present]
    if missing:
        examples = ", ".join(missing[:_NAMED_EXAMPLES]) + (", ..." if len(missing) > _NAMED_EXAMPLES else "")
        raise ValueError(
            f"{len(missing)} of the {len(records)} images of {name!r} have no label map in {root!r}: {examples}. Make them with: "
            f"{_command(name, root, store.index)} (it continues where it stopped). Images that it lists in failed.txt are unreadable: "
            "repair or remove them."
        )
    return [{**record, "label_map_file_name": os.path.abspath(store.path(record["key"]))} for record in records]


def describe_masks(cfg: "d2.CfgNode") -> str:
    """One line on where the regions come from, for logs and checkpoints: generator and parameters, one part for each data set."""
    masks = cfg.DETCON.MASKS
    if masks.SOURCE == "grid":
        return f"grid size={masks.GRID}"
    indices = [LabelMapStore(root).index for root in masks.ROOTS]
    return "; ".join(
        " ".join([index["generator"], *(f"{key}={value}" for key, value in sorted(index["params"].items()))]) for index in indices
    )


def _command(name: str, root: str, index: dict | None = None) -> str:
    words = ["python", "tools/generate_masks.py", name, root]
    if index is not None:
        words += ["--generator", index["generator"]]
        for key, value in index["params"].items():
            words += ["--grid" if key == "size" else f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(words)


class LabelMapSource:
    """The regions of a record: its file, or a grid computed on the fly."""

    def __init__(self, grid: int | None):
        """
        Args:
            grid: None: read ``label_map_file_name``; n: n x n equal cells of the full image.
        """
        self._grid = None if grid is None else build_generator("grid", size=grid)

    def __call__(self, record: dict, image: np.ndarray) -> np.ndarray:
        """uint16 (H, W) for an image uint8 (H, W, 3).

        Raises:
            ValueError: a label map of another size than the image, naming both files.
        """
        if self._grid is not None:
            # A grid draws nothing; the generators' signature asks for a generator of numbers.
            return self._grid(image, np.random.default_rng(0), record)
        path = record["label_map_file_name"]
        label_map = read_label_map(path)
        if label_map.shape != image.shape[:2]:
            found, expected = (f"{shape[1]} x {shape[0]}" for shape in (label_map.shape, image.shape))
            raise ValueError(
                f"The label map {path} is {found} (width x height); expected {expected}, the size of its image {record['file_name']} after "
                "EXIF rotation. The image was changed after its regions were computed, or the folders do not belong together: delete this "
                "label map and run tools/generate_masks.py again, or correct DETCON.MASKS.ROOTS."
            )
        return label_map
