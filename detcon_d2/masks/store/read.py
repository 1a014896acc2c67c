"""Reading label maps by reference, from a file of their own or from a tar."""

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
    path, layers, offset, length = reference
    if not 0 <= layer < layers:
        raise ValueError(f"label map {reference}: found {layers} layer(s); expected more than {layer}")
    try:
        return decode_png(read_png(reference), layer, layers)
    except FileNotFoundError as error:
        raise ValueError(f"label map: found no {path}; expected one for every image: run tools/generate_masks.py again") from error
    except ValueError as error:
        if length is None:
            raise ValueError(f"label map: {path}: {error}; delete it and run tools/generate_masks.py again") from error
    try:
        # The tar may have been replaced since this process opened it.
        return decode_png(read_png(reference, fresh=True), layer, layers)
    except ValueError as error:
        raise ValueError(
            f"label map: bytes {offset}..{offset + length - 1} of {path}: {error}. Find and remove damaged label maps with: "
            f"python tools/merge_masks.py {os.path.dirname(path)} --repair; then run tools/generate_masks.py again"
        ) from error


def read_png(reference: LabelMapReference, *, fresh: bool = False) -> bytes:
    """The PNG of an image; ``fresh``: open a tar again if it was replaced. Raises OSError."""
    if reference.length is not None:
        return read_range(Range(reference.path, reference.offset, reference.length), fresh=fresh)
    with open(reference.path, "rb", buffering=0) as file:
        return file.read()
