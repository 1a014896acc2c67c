"""A tar of label maps that any program can open, and the index next to it for access by key.

The label maps of an image are the member ``<key>.seg.png``, as WebDataset expects. WebDataset's keys have no extension, so a member whose
image has a key with an extension holds that key in its pax header, as a comment. The comment of the whole tar (json: generator, params,
hash, layers, and tiles where images are cut) describes how the label maps were made.

The index of ``maps-00000.tar`` is ``maps-00000.tar.index.json``: where the data of each member begin and how long they are. Without an
index, or with one of another tar, the members are listed from the tar itself, which takes 0.1 ms each.
"""

import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from detcon_d2.io.atomic import atomic_file, write_bytes_atomically
from detcon_d2.io.references import Range, read_range
from detcon_d2.io.tar import COMMENT, members, split_member
from detcon_d2.io.tiles import split_key

_SUFFIX = ".seg.png"
_END_BYTES = 1 << 16


class LabelMapTar(NamedTuple):
    """The label maps in a tar, whatever else is in it.

    Attributes:
        description: generator, params, hash, layers and perhaps tiles; None if the tar was made by another program.
        places: key -> where the label maps of the image are.
        has_index: whether the index next to it is up to date.
    """

    path: Path
    description: dict | None
    places: dict[str, Range]
    has_index: bool = False


def index_path(path: Path) -> Path:
    """The index of a tar."""
    return path.with_name(f"{path.name}.index.json")


def open_tar(path: Path) -> LabelMapTar:
    """A tar for reading. Raises ValueError if it is damaged or no uncompressed tar."""
    identity = _identify(path)
    try:
        index = json.loads(index_path(path).read_bytes())
        if identity.items() <= index.items():
            places = {key: _place(path, identity["bytes"], *place) for key, place in zip(index["keys"], index["places"], strict=True)}
            return LabelMapTar(path, _checked(index["description"]), places, has_index=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # no usable index: the tar has everything
    comment, places = None, {}
    for member, _, comment in members(path):
        stem, extension = split_member(member.name)
        key = member.pax_headers.get(COMMENT)
        if extension.endswith(_SUFFIX):
            key = stem if key is None or key == comment else key
            places[key] = _place(path, identity["bytes"], member.offset_data, member.size)
    try:
        description = _checked(json.loads(comment or "null"))
    except (ValueError, RecursionError):
        description = None
    return LabelMapTar(path, description, places)


def _place(path: Path, size: int, offset: int, length: int) -> Range:
    """Where a label map is in a tar of ``size`` bytes. Raises ValueError for a place outside of it."""
    if not (isinstance(offset, int) and isinstance(length, int) and 0 <= offset <= offset + length <= size):
        raise ValueError(f"{path}: found a label map at {offset} of {length} bytes; expected one in its {size} bytes: the tar is damaged")
    return Range(str(path), offset, length)


def _checked(description: object) -> dict | None:
    """The description of label maps, or None for that of another program."""
    kinds = {"generator": str, "params": dict, "hash": str, "layers": int}
    known = isinstance(description, dict) and all(isinstance(description.get(name), kind) for name, kind in kinds.items())
    return description if known and description["layers"] > 0 else None


def write_tar(path: Path, description: dict, items: Iterable[tuple[str, bytes]]) -> LabelMapTar:
    """Write a tar atomically; ``items``: key and PNG of each image, sorted by key. Its bytes depend on the arguments only."""
    comment, stems, places = json.dumps(description, sort_keys=True), set(), {}
    with (
        atomic_file(path, sync=True) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={COMMENT: comment}) as tar,
    ):
        for key, data in items:
            image, tile = split_key(key)
            stem = split_member(image)[0] + tile
            member = tarfile.TarInfo((key if stem in stems else stem) + _SUFFIX)
            stems.add(stem)
            member.size = len(data)
            member.pax_headers = {} if key == stem else {COMMENT: key}
            tar.addfile(member, io.BytesIO(data))
            # Data are followed by zeros up to a multiple of 512 bytes.
            places[key] = Range(str(path), tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, len(data))
    return LabelMapTar(path, description, places)


def write_index(path: Path, tar: LabelMapTar) -> None:
    """Write the index of a tar next to ``path``, its present name."""
    keys = sorted(tar.places)
    places = [(tar.places[key].offset, tar.places[key].length) for key in keys]
    index = _identify(path) | {"description": tar.description, "keys": keys, "places": places}
    write_bytes_atomically(index_path(path), json.dumps(index, sort_keys=True).encode())


def _identify(path: Path) -> dict[str, int]:
    """What distinguishes a tar from another one, without reading all of it."""
    size = os.stat(path).st_size
    start = max(0, size - _END_BYTES)
    # fresh: another file of the same name may be open.
    return {"bytes": size, "crc32_of_end": zlib.crc32(read_range(Range(str(path), start, size - start), fresh=True))}
