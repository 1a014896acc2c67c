"""Records of images: a whole image, or one of the tiles that a large image is cut into.

A tile's record is its image's with ``tile``, and with a key that names both; ``height`` and ``width``, where known, stay the image's:

    a/7.jpg[1024x1024+2048+0]    width x height + x + y of the tile in the image as it is shown, as ImageMagick writes it

The name says which pixels a tile has, so a label map that is found under it is one of these pixels.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from detcon_d2.io.images import PLAIN, ImageReadError, Reading, image_size, read_image, read_image_fast, recorded_size

_KEY = re.compile(r"(.*?)(\[\d+x\d+\+\d+\+\d+\])?", re.DOTALL)
_THREADS = 16
_BAR_AFTER_SECONDS = 2


class Tile(NamedTuple):
    """A part of an image, in pixels of the image as it is shown. ``str()`` is its name."""

    width: int
    height: int
    x: int
    y: int

    def __str__(self) -> str:
        return f"[{self.width}x{self.height}+{self.x}+{self.y}]"


def split_key(key: str) -> tuple[str, str]:
    """The key of the image, and the name of the tile or ""."""
    image, tile = _KEY.fullmatch(key).groups()
    return image, tile or ""


def tile_record(record: dict, tile: Tile) -> dict:
    """The record of a tile of a whole image's."""
    return record | {"key": f"{record['key']}{tile}", "tile": tile}


def whole_record(record: dict) -> dict:
    """The record of the whole image."""
    if "tile" not in record:
        return record
    return {name: value for name, value in record.items() if name != "tile"} | {"key": record["key"].removesuffix(str(record["tile"]))}


def record_name(record: dict) -> str:
    """The file, with the name of the tile: for messages."""
    return f"{record['file_name']}{record.get('tile', '')}"


def tile_records(records: list[dict], reading: Reading, *, progress: bool = False) -> list[dict]:
    """The records of whole images, those of images larger than a tile replaced by their tiles, row by row.

    The files are opened for their sizes, as those that a data set records may be wrong. An image that cannot be opened stays whole, and
    whoever reads it reports it. ``progress``: show a progress bar if it takes more than 2 s.

    Args:
        records: dataset dicts with "file_name" and "key".
        reading: how images are read; ``tiles`` is the side of a tile, see :class:`Reading`.
    """
    if not reading.tiles:
        return records
    sizes = image_sizes(records, reading, progress=progress)
    return [part for record, size in zip(records, sizes) for part in _parts(record, size, reading.tiles)]


def image_sizes(records: list[dict], reading: Reading, *, progress: bool = False) -> list[tuple[int, int] | None]:
    """(height, width) in pixels of the images' files; None for one that cannot be opened. Arguments as for :func:`tile_records`."""
    # Threads, as opening files on a network drive is mostly waiting.
    with ThreadPool(_THREADS) as pool:
        sizes = pool.imap(partial(_size, reading=reading), records, chunksize=16)
        return list(tqdm(sizes, "sizes", len(records), unit=" images", disable=not progress, delay=_BAR_AFTER_SECONDS))


def _size(record: dict, reading: Reading) -> tuple[int, int] | None:
    try:
        return image_size(record["file_name"], recorded_size(record), reading)
    except ImageReadError:
        return None


def _parts(record: dict, size: tuple[int, int] | None, side: int) -> Iterable[dict]:
    return [record] if size is None or max(size) <= side else (tile_record(record, tile) for tile in cut(*size, side))


def cut(height: int, width: int, side: int) -> Iterator[Tile]:
    """The tiles of an image, row by row: side x side pixels, or all of a side of the image that is shorter.

    They begin at multiples of ``side``. The last row and column are moved inside, so that every tile is full; they overlap those before.
    """
    rows, columns = min(side, height), min(side, width)
    for y in (*range(0, height - rows, rows), height - rows):
        for x in (*range(0, width - columns, columns), width - columns):
            yield Tile(columns, rows, x, y)


def read_record(record: dict, reading: Reading = PLAIN, *, fast: bool = False) -> np.ndarray:
    """The image or tile of a dataset dict, as :func:`read_image` or :func:`read_image_fast` with the ``height`` and ``width`` of the dict.

    For a tile its whole image is decoded: no reader of Pillow's or OpenCV's decodes a part of a JPEG or PNG. uint8 (H, W, 3) RGB; raises
    ImageReadError.
    """
    image = (read_image_fast if fast else read_image)(record["file_name"], recorded_size(record), reading)
    return pixels_of(record, image)


def pixels_of(record: dict, image: np.ndarray) -> np.ndarray:
    """The pixels (h, w, 3) of a record in its whole image (H, W, 3). Raises ImageReadError if the image is too small for the tile."""
    tile = record.get("tile")
    if tile is None:
        return image
    if tile.y + tile.height > image.shape[0] or tile.x + tile.width > image.shape[1]:
        reason = f"it has {image.shape[1]} x {image.shape[0]} pixels and no tile {tile}: it was changed after it was cut into tiles"
        raise ImageReadError(record["file_name"], f"{reason}; start again")
    return image[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width].copy()


def label_map_of(record: dict, label_maps: np.ndarray) -> np.ndarray:
    """The label maps (..., h, w) of a record, cut from those of its whole image (..., H, W)."""
    tile = record.get("tile")
    return label_maps if tile is None else label_maps[..., tile.y : tile.y + tile.height, tile.x : tile.x + tile.width].copy()


def record_size(record: dict, reading: Reading = PLAIN) -> tuple[int, int]:
    """Height and width of what :func:`read_record` returns, without decoding it. Raises ImageReadError."""
    tile = record.get("tile")
    return (tile.height, tile.width) if tile else image_size(record["file_name"], recorded_size(record), reading)


def describe_tiles(tiles: int) -> str:
    """``whole images`` or ``tiles of 1024 px``, for messages."""
    return f"tiles of {tiles} px" if tiles else "whole images"


def failed_keys(records: Iterable[dict], failed: Mapping[str, str]) -> dict[str, str]:
    """Key of a record -> the name under which it, or its whole image, is in a list of what failed; the others are left out."""
    names = ((record["key"], whole_record(record)["key"]) for record in records)
    return {key: key if key in failed else image for key, image in names if key in failed or image in failed}
