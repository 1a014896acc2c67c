"""A folder of label maps, one PNG per image, and what it shares with the folder of tars (:mod:`detcon_d2.masks.store.tar_folder`)."""

import os
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from detcon_d2.io.atomic import walk_files, write_bytes_atomically
from detcon_d2.io.names import escape_name, unescape_name
from detcon_d2.io.references import LabelMapReference
from detcon_d2.masks.store.index import FORMATS, format_name, make_index, read_index
from detcon_d2.masks.store.png import encode_png, read_label_map

_FAILED_NAME = "failed.txt"


class LabelMapStore:
    """A folder ``root`` with ``index.json`` and with ``<root>/<key>.png`` for the image or tile with a key (see
    :mod:`detcon_d2.masks.store.png`).

    Attributes:
        index: what ``index.json`` holds: format, generator, params, hash, source, versions, layers, tiles (unless the label maps are of
            whole images), and more for some formats.
        layers: label maps per image.
        format: short name of the format, as on the command line.
        options: what else the index of this format holds -> its default.
    """

    format = "png"
    options: ClassVar[dict[str, int]] = {}

    def __init__(self, root: str | os.PathLike) -> None:
        """Open an existing folder. Raises ValueError if it is none, of another format, or its index is damaged."""
        self.root = Path(root)
        self.index = read_index(self.root)
        if format_name(self.index) != self.format:
            raise ValueError(f"{root}: found {self.index['format']!r}; expected format {self.format}: use detcon_d2.masks.open_store")
        self.layers: int = self.index.get("layers", 1)

    @classmethod
    def create(
        cls, root: str | os.PathLike, generator: str, params: dict, dataset: str, *,
        layers: int = 1, tiles: int = 0, same_images: bool = False, **more: int,
    ) -> "LabelMapStore":  # fmt: skip
        """Open a folder for writing; make it and its index if it does not exist.

        Args:
            generator, params: registered name, and parameters as plain values.
            dataset: data set spec or catalog name. Two data sets can have equal keys, so another one is refused.
            tiles: side of the tiles that large images are cut into, pixels; 0: label maps of whole images.
            same_images: accept another ``dataset``: the same images at another place, or more of them.
            more: of a new folder of tars: ``images_per_file``, for images that are in no tar themselves. Other formats ignore it.

        Raises:
            ValueError: the folder holds label maps of another generator, other parameters or another data set, or files without an index.
            OSError: it cannot be made or written.
        """
        options = {name: more.get(name, default) for name, default in cls.options.items()}
        if min(options.values(), default=1) < 1:
            raise ValueError(f"images per file: found {options['images_per_file']}; expected at least 1")
        wanted = {"format": FORMATS[cls.format], "generator": generator, "params": params, "source": dataset, "layers": layers}
        make_index(Path(root), wanted | ({"tiles": tiles} if tiles else {}) | options, same_images=same_images)
        return cls(root)

    def path(self, key: str) -> Path:
        """The file of an image. Raises ValueError for a key that leads out of the folder."""
        check_key(key)
        return self.root / f"{key}.png"

    def reference(self, key: str) -> LabelMapReference:
        """Where the label maps of an image are. Raises ValueError if that is nowhere."""
        return LabelMapReference(os.path.abspath(self.path(key)), self.layers)

    def read(self, key: str, layer: int = 0) -> np.ndarray:
        """A label map of an image, uint16 (H, W). Raises ValueError: missing, damaged, or no such layer."""
        return read_label_map(self.reference(key), layer)

    def write(self, key: str, label_map: np.ndarray) -> None:
        """Store the label maps of an image, uint16 (H, W) or (layers, H, W). Readers see all of it or nothing."""
        stack = label_map[None] if label_map.ndim == 2 else label_map
        assert stack.dtype == np.uint16 and stack.ndim == 3 and len(stack) == self.layers, (stack.dtype, stack.shape, self.layers)
        self.write_png(key, encode_png(stack))

    def write_png(self, key: str, data: bytes) -> None:
        """Store the PNG of an image."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, data)

    def keys(self) -> set[str]:
        """Keys of all images that have label maps here, including those that training cannot read yet."""
        # A power failure can leave empty files.
        paths = [Path(one.path) for one in walk_files(self.root) if one.name.endswith(".png") and one.stat().st_size]
        return {path.relative_to(self.root).as_posix()[: -len(".png")] for path in paths}

    def references(self) -> dict[str, LabelMapReference]:
        """Those of the images that training can read, by key."""
        root = os.path.abspath(self.root)
        return {key: LabelMapReference(f"{root}/{key}.png", self.layers) for key in self.keys()}

    def discard(self, keys: set[str]) -> None:
        """Remove damaged label maps, so that the next run makes them again."""
        for key in keys:
            self.path(key).unlink(missing_ok=True)

    def finish(self, records: list[dict], failed: dict[str, str]) -> None:
        """Bring the folder into its final form. To call when the label maps of all these records ("key", "file_name") are written, except
        those that failed (key -> reason)."""

    def write_failed(self, failed: dict[str, str], part: tuple[int, int] | None = None) -> None:
        """Write ``failed.txt``: key of a tile or image (with escapes, such as \\t), TAB, reason; no file if nothing failed. A part of the
        work has ``failed-0-of-16.txt`` instead, until the list of the whole replaces it."""
        path = self.root / (_FAILED_NAME if part is None else f"failed-{part[0]}-of-{part[1]}.txt")
        if failed:
            text = "".join(f"{escape_name(key)}\t{reason}\n" for key, reason in sorted(failed.items()))
            write_bytes_atomically(path, text.encode("utf-8", "surrogateescape"))
        else:
            path.unlink(missing_ok=True)
        for old in self.root.glob("failed-*-of-*.txt") if part is None else ():
            old.unlink(missing_ok=True)


def read_failed(root: Path) -> dict[str, str]:
    """Key -> reason of the images and tiles that the last run, or the runs of the parts, could not use; an image whose file could not be
    read is named once (:func:`detcon_d2.io.tiles.failed_keys`)."""
    failed = {}
    for path in [root / _FAILED_NAME, *sorted(root.glob("failed-*-of-*.txt"))]:
        if path.exists():
            lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
            pairs = (line.split("\t", 1) for line in lines if "\t" in line)
            failed |= {unescape_name(key): reason for key, reason in pairs}
    return failed


def check_key(key: str) -> None:
    """Raise ValueError for an image key that is not a path below the root of its data set."""
    pure = PurePosixPath(key)
    if not key or pure.is_absolute() or ".." in pure.parts or "\0" in key or pure.as_posix() != key or key == ".":
        raise ValueError(f"image key: found {key!r}; expected a path below the root of its data set, without '..': move the image there")
