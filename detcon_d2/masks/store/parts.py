"""Label maps on their way into large files: each process appends to a file of its own, from which nothing that is complete gets lost.

A part, ``.part-<machine>-<process>-<number>``, is a sequence of

    u4   length of the key
    u4   length of the data
    u4   crc32 of key and data
    ...  the key, UTF-8
    ...  the data

(little-endian). A process that is killed leaves at most an incomplete end, where readers stop.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from detcon_d2.io.atomic import process_prefix, write_error
from detcon_d2.io.references import Range

PART = ".part-"
"""Beginning of the names of parts."""

_HEAD = struct.Struct("<III")


class PartWriter:
    """Appends to a part of this process; made anew by the first write after a fork or an error."""

    def __init__(self, root: Path) -> None:
        """
        Args:
            root: folder of the part.
        """
        self._root = root
        self._descriptor: int | None = None
        self._process = -1

    def append(self, key: str, data: bytes) -> None:
        """Write at the end. Raises OSError; readers stop before what was written incompletely, and the next write begins a new part."""
        name = key.encode("utf-8", "surrogateescape")
        record = _HEAD.pack(len(name), len(data), zlib.crc32(data, zlib.crc32(name))) + name + data
        try:
            descriptor = self._open()
            while record:
                record = record[os.write(descriptor, record) :]
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise write_error(self._root, error) from error
            raise

    def close(self) -> None:
        """The next write begins a new part."""
        if self._descriptor is not None and self._process == os.getpid():
            os.close(self._descriptor)
        self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None or self._process != os.getpid():
            number = 0
            while True:
                path = self._root / f"{process_prefix(PART)}{number}"
                try:
                    # Exclusive: a process with the same number may have left one.
                    self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                    break
                except FileExistsError:
                    number += 1
            self._process = os.getpid()
        return self._descriptor


def find_parts(root: Path) -> list[Path]:
    """All parts in a folder, also those of living processes."""
    return sorted(path for path in root.iterdir() if path.name.startswith(PART))


def scan_part(path: Path) -> Iterator[tuple[str, Range]]:
    """Key and place of everything complete in a part."""
    with open(path, "rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            key_length, length, checksum = _HEAD.unpack(head)
            name, offset, data = file.read(key_length), file.tell(), file.read(length)
            if len(data) < length or zlib.crc32(data, zlib.crc32(name)) != checksum:
                return
            yield name.decode("utf-8", "surrogateescape"), Range(str(path), offset, length)
