"""Reading the shards of earlier versions, for tools/merge_masks.py.

A shard (little-endian): head; description in json; entries of the images; table of these; their keys in UTF-8, concatenated; tail with the
crc32 of description, table and keys. An entry, in shards and in parts: header; u4 length of each layer's data; the layers' data, which are
ids row by row in raw deflate (RFC 1951).
"""

import struct
import zlib
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from detcon_d2.io.references import Range
from detcon_d2.masks.store.parts import find_parts, scan_part

_MAGIC = b"DETCONLM"
_HEAD = struct.Struct("<8sII")  # magic, version, length of the description
_TAIL = struct.Struct("<QQII8s")  # offset of the table, length of the keys, number of images, crc32, magic
_ROW = np.dtype([("offset", "<u8"), ("length", "<u4"), ("key_end", "<u4"), ("failed", "u1")])
_ENTRY = struct.Struct("<IBxHII")  # crc32 of everything after it, bits per id (0: the image failed), layers, height, width


def list_shards(root: Path) -> dict[str, Range]:
    """Key -> place of the entry of all images with label maps in a folder. Raises ValueError for a damaged shard."""
    places = {key: place for path in find_parts(root) for key, place in scan_part(path)}
    for path in sorted(root.glob("*.shard")):
        places |= _read_table(path)
    return places


def unpack_entry(entry: bytes) -> np.ndarray:
    """The label maps of an image, uint16 (layers, H, W). Raises ValueError for damage."""
    if len(entry) < _ENTRY.size or zlib.crc32(entry[4:]) != int.from_bytes(entry[:4], "little"):
        raise ValueError("the bytes are damaged (crc32)")
    _, bits, layers, height, width = _ENTRY.unpack_from(entry)
    lengths = struct.unpack_from(f"<{layers}I", entry, _ENTRY.size)
    ends = accumulate(lengths, initial=_ENTRY.size + 4 * layers)
    ids = b"".join(zlib.decompress(entry[start:end], -15) for start, end in pairwise(ends))
    return np.frombuffer(ids, f"<u{bits // 8}").reshape(layers, height, width).astype(np.uint16)


def _read_table(path: Path) -> dict[str, Range]:
    """Key -> place of the images in a shard that did not fail."""
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    head, tail = data[: _HEAD.size].tobytes(), data[-_TAIL.size :].tobytes()
    if len(data) < _HEAD.size + _TAIL.size or head[:8] != _MAGIC or tail[-8:] != _MAGIC:
        raise ValueError(f"label maps: {path} is damaged: it does not begin and end as a shard does; delete it and convert the others")
    offset, keys_length, number, checksum, _ = _TAIL.unpack(tail)
    described = data[_HEAD.size : _HEAD.size + _HEAD.unpack(head)[2]].tobytes()
    table = data[offset : len(data) - _TAIL.size].tobytes()
    if len(table) != number * _ROW.itemsize + keys_length or zlib.crc32(table, zlib.crc32(described)) != checksum:
        raise ValueError(f"label maps: {path} is damaged: its table has another crc32; delete it and convert the others")
    names, start, places = table[number * _ROW.itemsize :], 0, {}
    for entry_offset, length, end, failed in np.frombuffer(table, _ROW, number).tolist():
        if not failed:
            places[names[start:end].decode("utf-8", "surrogateescape")] = Range(str(path), entry_offset, length)
        start = end
    return places
