"""Text that names an image or the label maps of an image, and the bytes it stands for.

    /maps/a.jpg.png                          the label map in this file
    /maps/a.jpg.png*3                        three label maps (layers) in this file
    /maps/maps-00002.tar#4096+812*3          three layers in bytes 4,096 .. 4,907 of a tar
    /data/train-0000.tar#4096+812:a/7.jpg    an image in a tar, with the name of its member

A reference holds everything that is needed to read, so worker processes need no index.
"""

import os
import re
from typing import NamedTuple

_LABEL_MAPS = re.compile(r"(.*\.tar)#(\d+)\+(\d+)(?:\*(\d+))?|(.*\.png)\*(\d+)", re.DOTALL)
_IMAGE = re.compile(r"(.*\.tar)#(\d+)\+(\d+):.*", re.DOTALL)

_descriptors: dict[str, int] = {}


class Range(NamedTuple):
    """Bytes ``offset`` .. ``offset + length - 1`` of the file ``path``."""

    path: str
    offset: int
    length: int


class LabelMapReference(NamedTuple):
    """The ``layers`` label maps of an image, in a PNG file (``length`` None) or in a range of a tar. ``str()`` gives the text that
    :func:`parse_label_map` reads."""

    path: str
    layers: int = 1
    offset: int = 0
    length: int | None = None

    def __str__(self) -> str:
        where = "" if self.length is None else f"#{self.offset}+{self.length}"
        return f"{self.path}{where}{'' if self.layers == 1 else f'*{self.layers}'}"

    def __fspath__(self) -> str:
        return str(self)


def parse_label_map(text: str | os.PathLike) -> LabelMapReference:
    """The reference that a text stands for. A text of another form is the path of a file with one label map."""
    match = _LABEL_MAPS.fullmatch(os.fspath(text))
    if match is None:
        return LabelMapReference(os.fspath(text))
    path, offset, length, layers, png, png_layers = match.groups()
    return LabelMapReference(path, int(layers or 1), int(offset), int(length)) if path else LabelMapReference(png, int(png_layers))


def parse_image(text: str | os.PathLike) -> Range | None:
    """Where the bytes of an image in a tar are; None for an ordinary path, also if a file really has such a name."""
    match = _IMAGE.fullmatch(os.fspath(text))
    match = None if match and os.path.lexists(text) else match
    return Range(match[1], int(match[2]), int(match[3])) if match else None


def read_range(place: Range | LabelMapReference, *, fresh: bool = False) -> bytes:
    """The bytes of a range, fewer if the file ends before it; or of a whole file. Raises OSError.

    The file of a range stays open for the next call; ``fresh``: open it again if it was replaced. ``os.pread`` has no shared position, so
    threads and forked processes can read at the same time.
    """
    if place.length is None:
        with open(place.path, "rb", buffering=0) as file:
            return file.read()
    descriptor = _descriptors.get(place.path)
    if fresh and descriptor is not None and not os.path.samestat(os.fstat(descriptor), os.stat(place.path)):
        # The old descriptor stays open: another thread may be reading from it.
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
