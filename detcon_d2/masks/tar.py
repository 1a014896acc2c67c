"""WebDataset tars: images in, label maps out, and back. Nothing is ever extracted to disk.

A sample's key is the name of its members up to the first dot of the last part: ``a/7.jpg``, ``a/7.cls`` and ``a/7.seg.png`` are the image,
the class (a number as text) and the label map of ``a/7``. A tar of label maps made here says in its global pax header, as a comment, how
they were made (json: generator, params, hash, layers); a member whose image has a key with an extension says that key in the same way.
"""

import glob
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from detcon_d2.masks.atomic import atomic_file
from detcon_d2.masks.packed import Container, Item, PackedStore
from detcon_d2.masks.references import Range, parse_image, read_range
from detcon_d2.masks.storage import decode_png, encode_png

LABEL_MAP_SUFFIX = ".seg.png"
_COMMENT = "comment"
# Names of tars that hold what came from no tar.
_BLOCK = re.compile(r"maps-\d{5,}\.tar")
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
    """Dataset dicts of the images in tars: ``file_name`` is a reference, ``key`` and ``image_id`` WebDataset's key, ``label`` its class.

    Args:
        pattern: see :func:`expand_pattern`.
        extensions: of images, with the dot, lower case.

    Raises:
        ValueError: a missing or damaged tar, no image in it, two images with one key, or classes of some images only.
    """
    records: dict[str, dict] = {}
    labels: dict[str, int] = {}
    for path in expand_pattern(pattern):
        before = len(records)
        for member, content, _ in _members(path, lambda key, extension: extension == ".cls"):
            key, extension = split_member(member.name)
            if extension == ".cls":
                labels[key] = _to_label(content, path, member.name)
            elif extension.lower() in extensions:
                name = f"{path}#{member.offset_data}+{member.size}:{member.name}"
                if key in records:
                    raise ValueError(
                        f"tar:{pattern}: found two images with the key {key!r}: {records[key]['file_name']} and {name}; expected one image "
                        "a sample, and each key in one tar only: pack the tars with longer keys"
                    )
                records[key] = {"file_name": name, "image_id": key, "key": key}
        if len(records) == before:
            raise ValueError(f"tar:{pattern}: found no image in {path}; expected members such as a/7.jpg ({' '.join(sorted(extensions))})")
    if labels and labels.keys() < records.keys():
        raise ValueError(f"tar:{pattern}: found classes (.cls) of {len(labels)} of {len(records)} images; expected all or none")
    return [record | ({"label": labels[key]} if labels else {}) for key, record in records.items()]


def split_member(name: str) -> tuple[str, str]:
    """WebDataset's key and extension: ``./a/7.seg.png`` -> ``a/7``, ``.seg.png``."""
    folder, slash, base = PurePosixPath(name).as_posix().rpartition("/")
    stem, dot, extension = base.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{extension}"


class LabelMapTar(Container):
    """A tar with label maps ``<key>.seg.png``, whatever else is in it.

    Attributes:
        path: the file.
        description: generator, params, hash, layers; None in a tar from elsewhere.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the file.

        Raises:
            ValueError: damaged, or no uncompressed tar.
        """
        self.path = path
        # Another file of the same name may have been read before.
        read_range(Range(str(path), 0, 1), fresh=True)
        self.description: dict | None = None
        self._items: dict[str, Item] = {}
        for member, _, common in _members(path):
            self.description = _parse_description(common)
            stem, extension = split_member(member.name)
            key = member.pax_headers.get(_COMMENT)
            key = stem if key is None or key == common else key
            if extension.endswith(LABEL_MAP_SUFFIX):
                self._items[key] = Item(key, Range(str(path), member.offset_data, member.size), failed=False)

    def items(self) -> Iterator[Item]:
        return (self._items[key] for key in sorted(self._items))

    def find(self, key: str) -> Item | None:
        return self._items.get(key)


class TarStore(PackedStore):
    """A folder of tars of label maps: for images in tars one of the same name for each; else ``maps-00000.tar`` and so on."""

    format = "tar"
    encoding = "png"
    suffix = ".tar"
    keeps_failures = False

    def encode(self, stack: np.ndarray) -> bytes:
        return encode_png(stack)

    def decode(self, data: bytes, layer: int) -> np.ndarray:
        return decode_png(data, layer, self.layers)

    def pack_failure(self, reason: str) -> bytes:
        return reason.encode("utf-8", "surrogateescape")

    def groups(self, records: list[dict], keys: set[str]) -> dict[str, list[str]]:
        names = {
            item.key: container.path.name
            for container in self.containers()
            if not _BLOCK.fullmatch(container.path.name)
            for item in container.items()
        }
        for record in records:
            if (place := parse_image(record.get("file_name", ""))) is not None:
                names[record["key"]] = os.path.basename(place.path)
        groups: dict[str, list[str]] = {}
        for key in sorted(keys & names.keys()):
            groups.setdefault(names[key], []).append(key)
        return groups | super().groups([], keys - names.keys())

    def open_container(self, path: Path) -> LabelMapTar:
        tar = LabelMapTar(path)
        if tar.description is None or tar.description["hash"] != self.index["hash"]:
            found = "no description" if tar.description is None else f"label maps of {tar.description['generator']}"
            raise ValueError(f"{path}: found {found}; expected the parameters of {self.root}/index.json: move it to where it belongs")
        return tar

    def write_container(self, path: Path, items: Iterable[tuple[str, bytes, bool]]) -> None:
        description = {name: self.index[name] for name in ("generator", "params", "hash", "layers")}
        used = set()
        with (
            atomic_file(path, sync=True) as file,
            tarfile.open(
                fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={_COMMENT: json.dumps(description, sort_keys=True)}
            ) as tar,
        ):
            for key, data, failed in items:
                if failed:
                    continue
                stem = split_member(key)[0]
                member = tarfile.TarInfo((key if stem in used else stem) + LABEL_MAP_SUFFIX)
                used.add(stem)
                member.size = len(data)
                member.pax_headers = {} if key == stem else {_COMMENT: key}
                tar.addfile(member, io.BytesIO(data))


def _members(path: Path, wanted: Callable[[str, str], bool] = lambda key, extension: False) -> Iterator[tuple]:
    """The files in a tar: TarInfo, content if wanted, and the comment of the tar as a whole."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg():
                    content = tar.extractfile(member).read() if wanted(*split_member(member.name)) else b""
                    yield member, content, tar.pax_headers.get(_COMMENT)
                tar.members = []
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path}: cannot read it as a tar ({error}); expected an uncompressed, complete tar") from error


def _to_label(content: bytes, path: Path, name: str) -> int:
    try:
        return int(content)
    except ValueError as error:
        raise ValueError(f"{path}: found {content[:40]!r} in {name}; expected a whole number, the class") from error


def _parse_description(comment: str | None) -> dict | None:
    try:
        description = json.loads(comment or "null")
    except ValueError:
        return None
    return description if isinstance(description, dict) and "hash" in description else None
