"""Unfinished work: each process appends label maps to a file of its own, so that a killed process loses at most the last one.

A part, ``.part-<machine>-<process>-<number>``, is a sequence of records: head (little-endian), key in UTF-8, data. Readers stop at the
first record that is incomplete or damaged.
"""

import itertools
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from detcon_d2.io.atomic import process_prefix, write_error
from detcon_d2.io.references import Range

_PART = ".part-"
_HEAD = struct.Struct("<III")  # length of the key, length of the data, crc32 of key and data


class PartWriter:
    """Appends to a part of this process in a folder. The first write after a fork or an error begins a new part."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._descriptor: int | None = None
        self._process = -1

    def append(self, key: str, data: bytes) -> None:
        """Write a record. Raises OSError; readers skip what was written incompletely."""
        name = key.encode("utf-8", "surrogateescape")
        record = _HEAD.pack(len(name), len(data), zlib.crc32(data, zlib.crc32(name))) + name + data
        try:
            if self._descriptor is None or self._process != os.getpid():
                self._descriptor, self._process = self._open_new(), os.getpid()
            while record:
                record = record[os.write(self._descriptor, record) :]
        except OSError as error:
            raise write_error(self._root, error) from error
        finally:
            if record:  # it was not written completely
                self.close()

    def close(self) -> None:
        """The next write begins a new part."""
        if self._descriptor is not None and self._process == os.getpid():
            os.close(self._descriptor)
        self._descriptor = None

    def _open_new(self) -> int:
        for number in itertools.count():
            try:
                # Exclusive: an earlier process with the same id may have left a part.
                return os.open(self._root / f"{process_prefix(_PART)}{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue


def find_parts(root: Path) -> list[Path]:
    """All parts in a folder, also those of running processes."""
    return sorted(path for path in root.iterdir() if path.name.startswith(_PART))


def scan_part(path: Path) -> Iterator[tuple[str, Range]]:
    """(key, place of the data) of the records in a part."""
    with open(path, "rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            key_length, length, checksum = _HEAD.unpack(head)
            name, offset, data = file.read(key_length), file.tell(), file.read(length)
            if len(data) < length or zlib.crc32(data, zlib.crc32(name)) != checksum:
                return
            yield name.decode("utf-8", "surrogateescape"), Range(str(path), offset, length)
