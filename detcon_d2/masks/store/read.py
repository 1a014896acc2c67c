"""Reading one label map, from a file of its own or from a tar."""

import os

import numpy as np

from detcon_d2.io.references import LabelMapReference, Range, parse_label_map, read_range
from detcon_d2.masks.store.png import decode_png


def read_label_map(reference: str | os.PathLike | LabelMapReference, layer: int = 0) -> np.ndarray:
    """The label map that ``record["label_map_file_name"]`` names.

    Args:
        reference: parsed, or a path or text as in :mod:`detcon_d2.io.references`.
        layer: which one, if the image has several.

    Returns:
        uint16 (H, W), 65535 = no region.

    Raises:
        ValueError: missing, damaged, no grey PNG, or no such layer.
    """
    if not isinstance(reference, LabelMapReference):
        reference = parse_label_map(reference)
    if not 0 <= layer < reference.layers:
        raise ValueError(f"label map {reference}: found {reference.layers} layer(s); expected more than {layer}")
    path, layers, offset, length = reference
    try:
        if length is None:
            return decode_png(read_file(path), layer, layers)
        return _read_from_tar(Range(path, offset, length), layer, layers)
    except FileNotFoundError as error:
        raise ValueError(f"label map: found no {path}; expected one for every image: run tools/generate_masks.py again") from error
    except ValueError as error:
        if length is None:
            raise ValueError(f"label map: {path}: {error}; delete it and run tools/generate_masks.py again") from error
        raise damaged_error(f"bytes {offset}..{offset + length - 1} of {path}", os.path.dirname(path), error) from error


def read_file(path: str | os.PathLike) -> bytes:
    """A whole file, without a buffer in between."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def damaged_error(name: str, folder: str | os.PathLike, reason: ValueError) -> ValueError:
    """What is wrong with a label map in a tar, and what to do."""
    return ValueError(
        f"label map: {name}: {reason}. Find and remove damaged label maps with: python tools/merge_masks.py {folder} --repair; "
        "then run tools/generate_masks.py again"
    )


def _read_from_tar(place: Range, layer: int, layers: int) -> np.ndarray:
    try:
        return decode_png(read_range(place), layer, layers)
    except ValueError:
        # The file may have been replaced since this process opened it.
        return decode_png(read_range(place, fresh=True), layer, layers)
