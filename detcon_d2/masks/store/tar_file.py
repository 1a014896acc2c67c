"""A tar of label maps that any program can open, and the index next to it for access by key.

The label maps of an image are the member ``<key>.seg.png``, as WebDataset expects. WebDataset's keys have no extension, so a member whose
image has a key with an extension holds that key in its pax header, as a comment. The comment of the whole tar (json: generator, params,
hash, layers) describes how the label maps were made.

The index of ``maps-00000.tar`` is ``maps-00000.tar.index.json``: where the data of each member begin and how long they are. Without an
index, or with one of another tar, the members are listed from the tar itself, which takes 0.1 ms each.
"""

import io
import json
import os
import tarfile
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from detcon_d2.io.atomic import atomic_file, write_bytes_atomically
from detcon_d2.io.references import Range, forget_file, read_range
from detcon_d2.io.tar import COMMENT, members, split_member

_SUFFIX = ".seg.png"
_INDEX_SUFFIX = ".index.json"
_END_BYTES = 1 << 16


class LabelMapTar:
    """The label maps in a tar, whatever else is in it.

    Attributes:
        path: the file.
        description: generator, params, hash and layers; None if the tar was made by another program.
        keys: of its images, sorted.
        places: int64 (number of images, 2), offset and length of the data of each.
        has_index: whether the index next to it is up to date.
    """

    def __init__(self, path: Path, description: dict | None, entries: dict[str, tuple[int, int]], has_index: bool = False) -> None:
        """
        Args:
            path, description, has_index: see the class.
            entries: key -> (offset, length).
        """
        self.path, self.description, self.has_index = path, description, has_index
        self.keys = sorted(entries)
        self.places = np.array([entries[key] for key in self.keys], np.int64).reshape(-1, 2)

    def find(self, key: str) -> Range | None:
        """Where the label maps of an image are; None if they are not here."""
        position = bisect_left(self.keys, key)
        return self._range(position) if position < len(self.keys) and self.keys[position] == key else None

    def items(self) -> Iterator[tuple[str, Range]]:
        """(key, place) of all images."""
        return ((key, self._range(position)) for position, key in enumerate(self.keys))

    def move_to(self, path: Path) -> None:
        """Give the tar its final name, and write its index."""
        index_path(path).unlink(missing_ok=True)  # first: an index must never be next to a tar that it does not belong to
        if path != self.path:
            forget_file(str(path))  # a deleted file keeps its disk space while it is open
            os.replace(self.path, path)
            self.path = path
        self.write_index()

    def write_index(self) -> None:
        """Write the index next to the tar."""
        index = _identify(self.path) | {"description": self.description, "keys": self.keys, "places": self.places.tolist()}
        write_bytes_atomically(index_path(self.path), json.dumps(index, sort_keys=True).encode())
        self.has_index = True

    def _range(self, position: int) -> Range:
        return Range(str(self.path), *self.places[position].tolist())


def index_path(path: Path) -> Path:
    """The index of a tar."""
    return path.with_name(path.name + _INDEX_SUFFIX)


def open_tar(path: Path) -> LabelMapTar:
    """A tar for reading. Raises ValueError if it is damaged or no uncompressed tar."""
    read_range(Range(str(path), 0, 1), fresh=True)  # another file of the same name may be open
    try:
        index = json.loads(index_path(path).read_bytes())
        if _identify(path).items() <= index.items():
            return LabelMapTar(path, index["description"], dict(zip(index["keys"], index["places"])), has_index=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # no usable index: the tar has everything
    description, entries = None, {}
    for member, _, comment in members(path):
        description = _parse_description(comment)
        stem, extension = split_member(member.name)
        key = member.pax_headers.get(COMMENT)
        if extension.endswith(_SUFFIX):
            entries[stem if key is None or key == comment else key] = (member.offset_data, member.size)
    return LabelMapTar(path, description, entries)


def write_tar(path: Path, description: dict, items: Iterable[tuple[str, bytes]]) -> LabelMapTar:
    """Write a tar atomically; its bytes depend on the arguments only.

    Args:
        path: the file.
        description: generator, params, hash, layers.
        items: key and PNG of each image, sorted by key.
    """
    comment, stems, entries = json.dumps(description, sort_keys=True), set(), {}
    with (
        atomic_file(path, sync=True) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={COMMENT: comment}) as tar,
    ):
        for key, data in items:
            stem = split_member(key)[0]
            member = tarfile.TarInfo((key if stem in stems else stem) + _SUFFIX)
            stems.add(stem)
            member.size = len(data)
            member.pax_headers = {} if key == stem else {COMMENT: key}
            tar.addfile(member, io.BytesIO(data))
            # Data are followed by zeros up to a multiple of 512 bytes.
            entries[key] = (tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, len(data))
    return LabelMapTar(path, description, entries)


def _identify(path: Path) -> dict[str, int]:
    """What tells a tar from another one, without reading all of it."""
    size = os.stat(path).st_size
    start = max(0, size - _END_BYTES)
    return {"bytes": size, "crc32_of_end": zlib.crc32(read_range(Range(str(path), start, size - start), fresh=True))}


def _parse_description(comment: str | None) -> dict | None:
    try:
        description = json.loads(comment or "null")
    except ValueError:
        return None
    return description if isinstance(description, dict) and "hash" in description else None
