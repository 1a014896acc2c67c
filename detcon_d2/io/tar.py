"""Images and classes in WebDataset tars, by reference. Nothing is extracted to disk.

A sample's key is the name of its members up to the first dot of the last part: ``a/7.jpg``, ``a/7.cls`` and ``a/7.seg.png`` are the image,
the class (a number as text) and the label map of ``a/7``.
"""

import glob
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

COMMENT = "comment"
"""The pax header that describes a tar, or holds the key of a member."""

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand_pattern(pattern: str) -> list[Path]:
    """The files of ``/data/train-{0000..0146}.tar`` or ``/data/*.tar``, sorted. Raises ValueError where one or all are missing."""
    patterns = [pattern]
    while match := _RANGE.search(patterns[0]):
        first, last = match[1], match[2]
        patterns = [
            text[: match.start()] + f"{number:0{len(first)}d}" + text[match.end() :]
            for text in patterns
            for number in range(int(first), int(last) + 1)
        ]
    paths = [path for text in patterns for path in (sorted(glob.glob(text)) if glob.has_magic(text) else [text])]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing or not paths:
        raise ValueError(
            f"tar:{pattern}: found {len(paths) - len(missing)} file(s){f', but no {missing[0]}' if missing else ''}; "
            "expected tars such as tar:/data/train-{0000..0146}.tar or tar:/data/*.tar"
        )
    return [Path(path) for path in paths]


def list_tar_images(pattern: str, extensions: Iterable[str]) -> list[dict]:
    """Dataset dicts of the images in the tars of a pattern: ``file_name`` is a reference, ``key`` and ``image_id`` WebDataset's key,
    ``label`` its class. ``extensions``: of images, with the dot, lower case. Raises ValueError: a missing or damaged tar, no image in it,
    two images with one key, or classes of some images only."""
    records: dict[str, dict] = {}
    labels: dict[str, int] = {}
    for path in expand_pattern(pattern):
        before = len(records)
        for member, content, _ in members(path, lambda key, extension: extension == ".cls"):
            key, extension = split_member(member.name)
            if extension == ".cls":
                if not re.fullmatch(rb"\s*[+-]?\d{1,18}\s*", content):
                    raise ValueError(f"{path}: found {content[:40]!r} in {member.name}; expected a whole number, the class")
                labels[key] = int(content)
            elif extension.lower() in extensions:
                name = f"{path}#{member.offset_data}+{member.size}:{member.name}"
                if key in records:
                    raise ValueError(
                        f"tar:{pattern}: found two images with the key {key!r}: {records[key]['file_name']} and {name}; expected one image "
                        "per sample, and each key in one tar only: pack the tars with longer keys"
                    )
                records[key] = {"file_name": name, "image_id": key, "key": key}
        if len(records) == before:
            raise ValueError(f"tar:{pattern}: found no image in {path}; expected members such as a/7.jpg ({' '.join(sorted(extensions))})")
    if labels and records.keys() - labels.keys():
        raise ValueError(f"tar:{pattern}: found classes (.cls) of {len(labels)} of {len(records)} images; expected all or none")
    return [record | ({"label": labels[key]} if labels else {}) for key, record in records.items()]


def split_member(name: str) -> tuple[str, str]:
    """WebDataset's key and extension: ``./a/7.seg.png`` -> ``a/7``, ``.seg.png``."""
    folder, slash, base = PurePosixPath(name).as_posix().rpartition("/")
    stem, dot, extension = base.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{extension}"


def members(path: Path, wanted: Callable[[str, str], bool] = lambda key, extension: False) -> Iterator[tuple]:
    """(TarInfo, content if wanted, comment of the whole tar) of the files in a tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg():
                    content = tar.extractfile(member).read() if wanted(*split_member(member.name)) else b""
                    yield member, content, tar.pax_headers.get(COMMENT)
                tar.members = []
    # ValueError and OverflowError: numbers and names in a damaged header.
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: cannot read it as a tar ({error}); expected an uncompressed, complete tar") from error
