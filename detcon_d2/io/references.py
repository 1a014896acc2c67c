"""Strings that name a picture or a label map, alone in a file or within a large one, and the bytes that they name.

    /maps/a.jpg.png                          a label map alone in a file
    /maps/a.jpg.png*3                        three label maps (layers) in a file
    /maps/maps-00002.shard#4096+812*3        bytes 4,096 .. 4,907 of a shard, three layers
    /maps/train-0000.tar#4096+812            a PNG in a tar
    /data/train-0000.tar#4096+812:a/7.jpg    an image in a tar, with the name of its member

All that is needed to read stands in the string: worker processes hold no index.
"""

import os
import re
from typing import NamedTuple

_LABEL_MAP = re.compile(r"(.*\.(?:shard|tar))#(\d+)\+(\d+)(?:\*(\d+))?|(.*\.png)\*(\d+)", re.DOTALL)
_IMAGE = re.compile(r"(.*\.tar)#(\d+)\+(\d+):.*", re.DOTALL)

_descriptors: dict[str, int] = {}


class Range(NamedTuple):
    """Bytes ``offset`` .. ``offset + length - 1`` of the file ``path``."""

    path: str
    offset: int
    length: int


def parse_label_map(reference: str | os.PathLike) -> tuple[str | Range, int]:
    """(path of a file or range within one, number of layers) of the reference to a label map."""
    text = os.fspath(reference)
    match = _LABEL_MAP.fullmatch(text)
    if match is None:
        return text, 1
    if match[5]:
        return match[5], int(match[6])
    return Range(match[1], int(match[2]), int(match[3])), int(match[4] or 1)


def label_map_reference(place: str | Range, layers: int) -> str:
    """The inverse of :func:`parse_label_map`."""
    text = place if isinstance(place, str) else f"{place.path}#{place.offset}+{place.length}"
    return text if layers == 1 else f"{text}*{layers}"


def parse_image(reference: str | os.PathLike) -> Range | None:
    """Where the bytes of an image in a tar are; None for an ordinary path."""
    match = _IMAGE.fullmatch(os.fspath(reference))
    return Range(match[1], int(match[2]), int(match[3])) if match else None


def read_range(place: Range, *, fresh: bool = False) -> bytes:
    """The bytes of a range; fewer where the file ends before it.

    The file stays open for the next call. Reading by position shares no state: safe in threads and forked processes.

    Args:
        place: what to read.
        fresh: open the file again if it was replaced.

    Raises:
        OSError: the file cannot be opened or read.
    """
    descriptor = _descriptors.get(place.path)
    if fresh and descriptor is not None and not os.path.samestat(os.fstat(descriptor), os.stat(place.path)):
        # Not closed: another thread may be reading from it.
        _descriptors.pop(place.path, None)
        descriptor = None
    if descriptor is None:
        opened = os.open(place.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        descriptor = _descriptors.setdefault(place.path, opened)
        if descriptor != opened:
            os.close(opened)
    return os.pread(descriptor, place.length, place.offset)


def forget_file(path: str) -> None:
    """Close a file that was deleted or replaced."""
    if (descriptor := _descriptors.pop(path, None)) is not None:
        os.close(descriptor)
