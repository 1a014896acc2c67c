"""Label maps of a data set in a few large files, with random access by image.

A folder ``index.json``, ``maps-00000.shard``, ``maps-00001.shard``, ... Each shard holds ``images_per_file`` images, in the order of their
keys. A shard, little-endian:

    8 bytes  b"DETCONLM"
    u4       version, 1
    u4       length of the description
    ...      description, json: generator, params, hash, layers
    ...      the entries of the images (see ``entries``), one after the other
    ...      the table, 17 bytes an image: u8 offset of the entry, u4 its length, u4 end of the key among the keys, u1 1 if the image failed
    ...      the keys, UTF-8, one after the other
    u8       offset of the table
    u8       length of the keys
    u4       number of images
    u4       crc32 of description, table and keys
    8 bytes  b"DETCONLM"

An entry says all that is needed to unpack it, so training needs the table only once, to find the entries: see ``references``.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from detcon_d2.io.atomic import atomic_file
from detcon_d2.io.references import Range, read_range
from detcon_d2.masks.store.entries import is_intact, pack_entry, pack_failure, unpack_entry
from detcon_d2.masks.store.packed import Container, Item, PackedStore

_MAGIC = b"DETCONLM"
_VERSION = 1
_HEAD = struct.Struct("<8sII")
_TAIL = struct.Struct("<QQII8s")
_ROW = np.dtype([("offset", "<u8"), ("length", "<u4"), ("key_end", "<u4"), ("failed", "u1")])


class Shard(Container):
    """A shard, for reading. In memory it is its table and keys, about 40 bytes an image, from the first use on.

    Attributes:
        path: the file.
        description: generator, params, hash, layers.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the file; its description is read, and that it is complete is checked.

        Raises:
            ValueError: damaged, or no shard.
        """
        self.path = path
        size = os.stat(path).st_size
        head = read_range(Range(str(path), 0, _HEAD.size), fresh=True)
        tail = self._read(size - _TAIL.size, _TAIL.size) if size >= _HEAD.size + _TAIL.size else b""
        if len(tail) < _TAIL.size or head[:8] != _MAGIC or tail[-8:] != _MAGIC:
            raise self._damaged("it does not begin and end as a shard does")
        _, version, length = _HEAD.unpack(head)
        if version != _VERSION:
            raise ValueError(f"label maps: {path} has version {version}; expected {_VERSION}: use the version of this program that made it")
        self._table_offset, self._keys_length, self._number, checksum, _ = _TAIL.unpack(tail)
        self._rows: np.ndarray | None = None
        self._keys = b""
        table_length = self._number * _ROW.itemsize + self._keys_length
        if self._table_offset + table_length + _TAIL.size != size:
            raise self._damaged("its table has another length")
        described = self._read(_HEAD.size, length)
        if zlib.crc32(self._read(self._table_offset, table_length), zlib.crc32(described)) != checksum:
            raise self._damaged("its description or table has another crc32")
        self.description = json.loads(described)

    def items(self) -> Iterator[Item]:
        path, start = str(self.path), 0
        for offset, length, end, failed in self._table().tolist():
            yield Item(self._keys[start:end].decode("utf-8", "surrogateescape"), Range(path, offset, length), bool(failed))
            start = end

    def find(self, key: str) -> Item | None:
        low, high = 0, self._number
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._key(middle) < key else (low, middle)
        return self._item(low) if low < self._number and self._key(low) == key else None

    def _item(self, index: int) -> Item:
        row = self._table()[index]
        return Item(self._key(index), Range(str(self.path), int(row["offset"]), int(row["length"])), bool(row["failed"]))

    def _key(self, index: int) -> str:
        ends = self._table()["key_end"]
        return self._keys[int(ends[index - 1]) if index else 0 : int(ends[index])].decode("utf-8", "surrogateescape")

    def _table(self) -> np.ndarray:
        if self._rows is None:
            data = self._read(self._table_offset, self._number * _ROW.itemsize + self._keys_length)
            self._rows = np.frombuffer(data, _ROW, self._number)
            self._keys = data[self._rows.nbytes :]
        return self._rows

    def _read(self, offset: int, length: int) -> bytes:
        return read_range(Range(str(self.path), offset, length))

    def _damaged(self, why: str) -> ValueError:
        return ValueError(f"label maps: {self.path} is damaged ({why}); delete it and run tools/generate_masks.py again")


def write_shard(path: Path, description: dict, items: Iterable[tuple[str, bytes, bool]]) -> None:
    """Write a shard atomically.

    Args:
        path: the file.
        description: generator, params, hash, layers.
        items: key, entry, and whether the image failed, sorted by key.
    """
    described = json.dumps(description, sort_keys=True).encode()
    keys, rows = bytearray(), []
    with atomic_file(path, sync=True) as file:
        file.write(_HEAD.pack(_MAGIC, _VERSION, len(described)) + described)
        for key, entry, failed in items:
            keys += key.encode("utf-8", "surrogateescape")
            rows.append((file.tell(), len(entry), len(keys), failed))
            file.write(entry)
        offset, table = file.tell(), np.array(rows, _ROW).tobytes() + keys
        file.write(table + _TAIL.pack(offset, len(keys), len(rows), zlib.crc32(table, zlib.crc32(described)), _MAGIC))


class ShardStore(PackedStore):
    """A folder of shards; see the module."""

    format = "shards"
    encoding = "entry"
    suffix = ".shard"
    keeps_failures = True

    def encode(self, stack: np.ndarray) -> bytes:
        return pack_entry(stack)

    def decode(self, data: bytes, layer: int) -> np.ndarray:
        return unpack_entry(data, layer)

    def pack_failure(self, reason: str) -> bytes:
        return pack_failure(reason)

    def is_intact(self, data: bytes) -> bool:
        return is_intact(data)

    def open_container(self, path: Path) -> Shard:
        shard = Shard(path)
        if shard.description["hash"] != self.index["hash"]:
            raise ValueError(
                f"{path}: found label maps of {shard.description['generator']} {shard.description['params']}; expected "
                f"{self.index['generator']} {self.index['params']}, as in {self.root}/index.json: move it to where it belongs"
            )
        return shard

    def write_container(self, path: Path, items: Iterable[tuple[str, bytes, bool]]) -> None:
        write_shard(path, {name: self.index[name] for name in ("generator", "params", "hash", "layers")}, items)
