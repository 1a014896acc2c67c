"""The image files below a folder, and what is there besides; the frames of clips."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

# Pillow's names of the formats that hold pictures; it also opens films, documents and arrays.
_FORMATS = {"AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PNG", "PPM", "PSD", "QOI", "TGA", "TIFF", "WEBP"}
_OPENED = {extension for extension, name in Image.registered_extensions().items() if name in _FORMATS and name in Image.OPEN}
IMAGE_EXTENSIONS = frozenset(_OPENED - {".icb", ".vda", ".vst"})
"""Extensions (lower case) of the files that count as images in a folder: those that the installed Pillow reads."""


def list_files(root: str | os.PathLike) -> Iterator[Path]:
    """Files below a folder and below the folders that links lead to, without hidden ones (such as macOS's ``._x.jpg``), pipes and devices.

    Each folder is listed once, by its own name rather than a link's, so that links never give a file twice and loops end. Raises
    ValueError: a folder that cannot be listed.
    """
    seen, folders = set(), [os.fspath(root)]
    while folders:
        links: list[str] = []
        for folder in folders:
            yield from _list_folder(folder, seen, links)
        folders = sorted(links)


def _list_folder(folder: str, seen: set[tuple[int, int]], links: list[str]) -> Iterator[Path]:
    """Files below a folder that has not been ``seen``; links to folders are added to ``links``."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"cannot list {error.filename}: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and entry.is_symlink():
            links.append(entry.path)
        elif entry.is_dir():
            yield from _list_folder(entry.path, seen, links)
        # A link to a file that is gone stays in the list, so that reading it names it.
        elif entry.is_file() or not os.path.exists(entry.path):
            yield Path(entry.path)


def count_extensions(paths: Iterable[Path], most: int = 8) -> str:
    """``2 x .heic, 1 x no extension``: the most frequent extensions; "" without files."""
    found = Counter(path.suffix.lower() or "no extension" for path in paths).most_common()
    return ", ".join(f"{count} x {extension}" for extension, count in found[:most]) + (", ..." if len(found) > most else "")


def frame_order(path: Path) -> tuple[list[int | str], str]:
    """The sort key of natural order: ``f2.png`` comes before ``f10.png``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.stem)], path.name


def is_frame(path: Path) -> bool:
    """Whether a file is an image whose name ends with a number, as ffmpeg's ``%06d.jpg``."""
    return path.suffix.lower() in IMAGE_EXTENSIONS and path.stem[-1:].isdecimal()


def list_frames(folder: str | os.PathLike) -> list[Path]:
    """The frames of the clip in a folder itself, not below it, in natural order. Raises ValueError: a folder that cannot be listed."""
    try:
        paths = [Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".") and not entry.is_dir()]
    except OSError as error:
        raise ValueError(f"cannot list {error.filename}: {error.strerror}") from error
    return sorted(filter(is_frame, paths), key=frame_order)
