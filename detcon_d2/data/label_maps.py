"""Label maps of training images: found up front, read or computed when an image is used."""

import logging
import os
from dataclasses import dataclass

import numpy as np

from detcon_d2 import d2
from detcon_d2.io.names import printable
from detcon_d2.io.references import LabelMapReference
from detcon_d2.io.specs import canonical_spec
from detcon_d2.io.tiles import describe_tiles, failed_keys, record_name, split_key
from detcon_d2.masks.command_lines import generate_command, merge_command
from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.store.formats import open_store
from detcon_d2.masks.store.png import read_label_map
from detcon_d2.masks.store.png_folder import read_failed
from detcon_d2.views.position import Stream, position_rng

logger = logging.getLogger(__name__)

_NAMED_EXAMPLES = 5


def attach_label_maps(
    records: list[dict], root: str, name: str, layer: int = -1, tiles: int = 0, skip_failed: bool = False, key: str = "DETCON.MASKS.ROOTS"
) -> list[dict]:
    """Copies of ``records`` with ``label_map_file_name``: a reference to a file or into a tar (:class:`LabelMapReference`).

    Args:
        records: of one data set.
        root: output folder of tools/generate_masks.py for it.
        name: of the data set, as in DATASETS.TRAIN.
        layer: that training uses, or -1.
        tiles: DETCON.DATA.TILES, by which the records were cut.
        skip_failed: leave out the images that generate_masks lists as unreadable, unless that is all of them.
        key: that has ``root``, for messages.

    Raises:
        ValueError: no such folder, no index in it, no such layer, or label maps missing: how many, the first of them, and the command that
            makes them; or label maps of other tiles.
    """
    if not os.path.isfile(os.path.join(root, "index.json")):
        found = "has no index.json" if os.path.isdir(root) else "does not exist"
        raise ValueError(
            f"{key} names {root!r}, which {found}; expected a folder of label maps for {name!r}. "
            f"Make them with: {generate_command(name, root, tiles=tiles)}"
        )
    store = open_store(root)
    if not -1 <= layer < store.layers:
        raise ValueError(
            f"DETCON.MASKS.LAYER is {layer}; expected 0..{store.layers - 1}, as {root!r} has {store.layers} label map(s) per image, or -1 "
            "to sample one each time."
        )
    source = canonical_spec(name)
    if store.index.get("source") != source:
        logger.warning("The label maps in %s were made for %s and are used for %s.", root, store.index.get("source"), source)
    references = store.references()
    missing = [record["key"] for record in records if record["key"] not in references]
    failed = failed_keys(records, read_failed(store.root)) if missing and skip_failed else {}
    if 0 < len(skipped := [key for key in missing if key in failed]) < len(records):
        text = "%d of the %d images of %s are left out (DETCON.ON_BAD_IMAGE skip), as generate_masks could not use them: %s"
        logger.warning(text, len(skipped), len(records), name, ", ".join(map(printable, skipped[:_NAMED_EXAMPLES])))
        records = [record for record in records if record["key"] in references or record["key"] not in failed]
        missing = [key for key in missing if key not in failed]
    if missing:
        # One example an image: an image that cannot be read has many tiles.
        named = list({split_key(key)[0]: key for key in reversed(missing)}.values())[::-1]
        examples = ", ".join(named[:_NAMED_EXAMPLES]) + (", ..." if len(named) > _NAMED_EXAMPLES else "")
        made = store.index.get("tiles", 0)
        if made != tiles:
            other = generate_command(name, f"{os.path.normpath(root)}_{f'tiles{tiles}' if tiles else 'whole'}", store.index, tiles=tiles)
            raise ValueError(
                f"DETCON.DATA.TILES is {tiles}, but {root!r} has label maps of {describe_tiles(made)}; expected those of "
                f"{describe_tiles(tiles)}: {len(missing)} of {len(records)} are missing, such as {examples}. Set DETCON.DATA.TILES "
                f"{made}, or make others and set {key} to their folder: {other}"
            )
        unmerged = len(store.keys().intersection(missing))
        raise ValueError(
            f"{len(missing)} of the {len(records)} images of {name!r} have no label map in {root!r}: {examples}. Make them with: "
            f"{generate_command(name, root, store.index)} (it continues where it stopped). Images that it lists in failed.txt are "
            "unreadable: repair or remove them, or set DETCON.ON_BAD_IMAGE skip to leave them out."
            f"{f' {unmerged} of them are made but not merged: {merge_command(root)}' if unmerged else ''}"
        )
    return [{**record, "label_map_file_name": references[record["key"]]} for record in records]


def describe_masks(cfg: "d2.CfgNode") -> str:
    """One line on where the regions come from, for logs and checkpoints: generator and parameters, one part for each data set."""
    masks = cfg.DETCON.MASKS
    if masks.SOURCE == "grid":
        return f"grid size={masks.GRID}"
    return "; ".join(_describe(open_store(root).index, masks.LAYER) for root in masks.ROOTS)


def _describe(index: dict, layer: int) -> str:
    words = [index["generator"], *(f"{key}={value}" for key, value in sorted(index["params"].items()))]
    if (layers := index.get("layers", 1)) > 1:
        words.append(f"layer {layer} of {layers}" if layer >= 0 else f"one of {layers} layers")
    words += [describe_tiles(index["tiles"])] if "tiles" in index else []
    return " ".join(words)


@dataclass(frozen=True)
class LabelMapSource:
    """The regions of a record: one of its label maps from file, or a grid computed on the fly.

    Attributes:
        grid: the generator "grid"; None: read ``label_map_file_name``.
        layer: which of an image's label maps; -1: one is sampled at each position.
        seed: >= 0, of that sampling.
    """

    grid: RegionGenerator | None
    layer: int
    seed: int

    def __call__(self, record: dict, image: np.ndarray, position: int = 0) -> np.ndarray:
        """uint16 (H, W) for an image uint8 (H, W, 3) at a position of the run.

        Raises ValueError: a damaged label map, or one of another size than the image, naming both files.
        """
        if self.grid is not None:
            # A grid uses no random numbers; the signature of generators asks for them.
            return self.grid(image, np.random.default_rng(0), record)
        reference = record["label_map_file_name"]
        try:
            label_map = read_label_map(reference, self._layer_at(reference, position))
        except ValueError as error:
            raise ValueError(f"{error} (image {record_name(record)})") from error
        if label_map.shape != image.shape[:2]:
            found, expected = (f"{shape[1]} x {shape[0]}" for shape in (label_map.shape, image.shape))
            raise ValueError(
                f"The label map {reference} is {found} (width x height); expected {expected}, the size of its image {record_name(record)} "
                "after EXIF rotation. The image was changed after its regions were computed, or the folders do not belong together: delete "
                "this label map and run tools/generate_masks.py again, or correct DETCON.MASKS.ROOTS."
            )
        return label_map

    def _layer_at(self, reference: LabelMapReference, position: int) -> int:
        if self.layer >= 0 or reference.layers == 1:
            return max(self.layer, 0)
        return int(position_rng(self.seed, position, Stream.LAYER).integers(reference.layers))
