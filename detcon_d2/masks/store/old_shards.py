"""Reading the shards of earlier versions, for tools/merge_masks.py.

A folder has ``index.json``, ``maps-00000.shard``, ``maps-00001.shard``, ... and, of unfinished work, parts. A shard, little-endian:

    8 bytes  b"DETCONLM"
    u4       version, 1
    u4       length of the description
    ...      description, json
    ...      the entries of the images, one after the other
    ...      the table, 17 bytes per image: u8 offset and u4 length of the entry, u4 end of the key among the keys, u1 1 if it failed
    ...      the keys, UTF-8, one after the other
    u8       offset of the table
    u8       length of the keys
    u4       number of images
    u4       crc32 of description, table and keys
    8 bytes  b"DETCONLM"

An entry, in shards and parts:

    u4   crc32 of everything after it
    u1   bits per id: 8, 16, or 0: the image failed
    u1   0
    u2   number of layers
    u4   height
    u4   width
    u4   for each layer: length of its data
    ...  the layers' data: ids row by row, raw deflate (RFC 1951)
"""

import os
import struct
import zlib
from pathlib import Path

import numpy as np

from detcon_d2.io.references import Range, read_range
from detcon_d2.masks.store.index import read_index
from detcon_d2.masks.store.parts import find_parts, scan_part

_MAGIC = b"DETCONLM"
_HEAD = struct.Struct("<8sII")
_TAIL = struct.Struct("<QQII8s")
_ROW = np.dtype([("offset", "<u8"), ("length", "<u4"), ("key_end", "<u4"), ("failed", "u1")])
_ENTRY = struct.Struct("<IBxHII")


class OldShards:
    """The label maps in a folder of shards.

    Attributes:
        root: the folder.
        index: what its ``index.json`` holds.
        layers: label maps per image.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        """
        Args:
            root: the folder.

        Raises:
            ValueError: a damaged shard.
        """
        self.root = Path(root)
        self.index = read_index(self.root)
        self.layers: int = self.index.get("layers", 1)
        self._places = {key: place for path in find_parts(self.root) for key, place in scan_part(path)}
        for path in sorted(self.root.glob("*.shard")):
            self._places |= _read_table(path)

    def keys(self) -> set[str]:
        """Keys of all images with label maps."""
        return set(self._places)

    def read_stack(self, key: str) -> np.ndarray:
        """The label maps of an image, uint16 (layers, H, W). Raises ValueError for damage."""
        entry = read_range(self._places[key])
        if len(entry) < _ENTRY.size or zlib.crc32(entry[4:]) != int.from_bytes(entry[:4], "little"):
            raise ValueError("the bytes are damaged (crc32)")
        _, bits, layers, height, width = _ENTRY.unpack_from(entry)
        ends = np.frombuffer(entry, "<u4", layers, _ENTRY.size).cumsum() + _ENTRY.size + 4 * layers
        starts = [_ENTRY.size + 4 * layers, *ends[:-1]]
        ids = b"".join(zlib.decompress(entry[start:end], -15) for start, end in zip(starts, ends))
        return np.frombuffer(ids, f"<u{bits // 8}").reshape(layers, height, width).astype(np.uint16)


def _read_table(path: Path) -> dict[str, Range]:
    """Key -> place of the images in a shard that did not fail."""
    with open(path, "rb") as file:
        head = file.read(_HEAD.size)
        size = os.stat(path).st_size
        file.seek(max(0, size - _TAIL.size))
        tail = file.read()
        if len(tail) < _TAIL.size or head[:8] != _MAGIC or tail[-8:] != _MAGIC:
            raise ValueError(f"label maps: {path} is damaged: it does not begin and end as a shard does; delete it and convert the others")
        offset, keys_length, number, checksum, _ = _TAIL.unpack(tail)
        file.seek(_HEAD.size)
        described = file.read(_HEAD.unpack(head)[2])
        file.seek(offset)
        table = file.read(number * _ROW.itemsize + keys_length)
    if zlib.crc32(table, zlib.crc32(described)) != checksum:
        raise ValueError(f"label maps: {path} is damaged: its table has another crc32; delete it and convert the others")
    rows, names, start, places = np.frombuffer(table, _ROW, number), table[number * _ROW.itemsize :], 0, {}
    for entry_offset, length, end, failed in rows.tolist():
        if not failed:
            places[names[start:end].decode("utf-8", "surrogateescape")] = Range(str(path), entry_offset, length)
        start = end
    return places
