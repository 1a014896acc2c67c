"""Label maps on disk, beside an index that says how they were made: one 16-bit grey PNG an image (:class:`LabelMapStore`).

``shards`` and ``tar`` have the same interface for a few large files.
"""

import os
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from detcon_d2.io.atomic import TEMPORARY, remove_leftovers, walk_files, write_bytes_atomically
from detcon_d2.io.references import Range, label_map_reference, parse_label_map, read_range
from detcon_d2.masks.store.entries import is_intact, unpack_entry
from detcon_d2.masks.store.index import FORMATS, INDEX_NAME, make_index, params_hash, read_index

__all__ = ["FAILED_NAME", "INDEX_NAME", "LabelMapStore", "Store", "params_hash", "read_label_map"]

FAILED_NAME = "failed.txt"

# Level 3 with OpenCV's run-length strategy reads 1.4 times as fast as level 6 for 1.4 times the size.
_PNG_PARAMS = (cv2.IMWRITE_PNG_COMPRESSION, 3)


class Store(ABC):
    """A folder of label maps and ``index.json``.

    Attributes:
        root: the folder.
        index: what ``index.json`` holds: format, generator, params, hash, source, versions, layers, and more as the format needs.
        layers: label maps an image.
        format: short name of the format.
        encoding: of what :meth:`read_bytes` returns; stores of the same encoding can exchange it.
    """

    format: str
    encoding: str

    def __init__(self, root: str | os.PathLike) -> None:
        """Open an existing folder. Raises ValueError if it is none, of another format, or its index is damaged."""
        self.root = Path(root)
        self.index = read_index(self.root)
        if self.index["format"] != FORMATS[self.format]:
            raise ValueError(f"{root}: found {self.index['format']!r}; expected {FORMATS[self.format]!r}: use detcon_d2.masks.open_store")
        self.layers: int = self.index.get("layers", 1)

    @classmethod
    def create(
        cls, root: str | os.PathLike, generator: str, params: dict, source: str, *, layers: int = 1, same_images: bool = False, **more: int
    ) -> "Store":
        """Open a folder for writing; make it and its index if there is none.

        Args:
            root: the folder.
            generator: registered name.
            params: its parameters, plain values.
            source: data set spec or catalog name. Keys of two data sets can coincide, so another one is refused.
            layers: label maps an image.
            same_images: accept another source: the same images at another place, or more of them.
            more: for the index of this format.

        Raises:
            ValueError: the folder holds label maps of another generator, other parameters or another data set, or files without an index.
            OSError: it cannot be made or written.
        """
        wanted = {"format": FORMATS[cls.format], "generator": generator, "params": params, "source": source, "layers": layers} | more
        make_index(Path(root), wanted, same_images=same_images)
        return cls(root)

    def read(self, key: str, layer: int = 0) -> np.ndarray:
        """A label map of an image, uint16 (H, W). Raises ValueError: missing, damaged, or no such layer."""
        return self.decode(self.read_bytes(key), layer)

    def write(self, key: str, label_map: np.ndarray) -> None:
        """Store the label maps of an image, uint16 (H, W) or (layers, H, W); readers see all of it or nothing."""
        stack = label_map[None] if label_map.ndim == 2 else label_map
        assert stack.dtype == np.uint16 and stack.ndim == 3 and len(stack) == self.layers, (stack.dtype, stack.shape, self.layers)
        self.write_bytes(key, self.encode(stack))

    @abstractmethod
    def encode(self, stack: np.ndarray) -> bytes:
        """uint16 (layers, H, W) to what is stored."""

    @abstractmethod
    def decode(self, data: bytes, layer: int) -> np.ndarray:
        """What is stored to uint16 (H, W). Raises ValueError for damage."""

    @abstractmethod
    def read_bytes(self, key: str) -> bytes:
        """What is stored for an image. Raises ValueError if that is nothing."""

    @abstractmethod
    def write_bytes(self, key: str, data: bytes) -> None:
        """Store what :meth:`encode` gave."""

    @abstractmethod
    def keys(self) -> set[str]:
        """Keys of the images that have label maps here, whether or not they can be trained on yet."""

    @abstractmethod
    def references(self) -> dict[str, str]:
        """Key -> reference for :func:`read_label_map`, of the images that can be trained on."""

    @abstractmethod
    def discard(self, keys: set[str]) -> None:
        """Forget damaged label maps, so that the next run makes them."""

    @abstractmethod
    def finish(self, records: list[dict], failed: dict[str, str]) -> None:
        """To call when the label maps of all these records are written: put them into their final form.

        Args:
            records: with "key" and "file_name".
            failed: key -> reason, of those that could not be made.
        """

    def remove_leftovers(self) -> None:
        """Delete the temporary files of processes of this machine that have died."""
        remove_leftovers(self.root)


class LabelMapStore(Store):
    """A folder with ``<root>/<key>.png`` for the image with that key. Several layers stand below each other in one PNG."""

    format = "png"
    encoding = "png"

    def path(self, key: str) -> Path:
        """Where the label map of an image is. Raises ValueError for a key that leads out of the folder."""
        check_key(key)
        return self.root / f"{key}.png"

    def encode(self, stack: np.ndarray) -> bytes:
        return encode_png(stack)

    def decode(self, data: bytes, layer: int) -> np.ndarray:
        return decode_png(data, layer, self.layers)

    def read(self, key: str, layer: int = 0) -> np.ndarray:
        return read_label_map(label_map_reference(str(self.path(key)), self.layers), layer)

    def read_bytes(self, key: str) -> bytes:
        return _read_file(self.path(key))

    def write_bytes(self, key: str, data: bytes) -> None:
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, data)

    def keys(self) -> set[str]:
        """Keys of all label maps here. Empty files, as a power failure can leave them, do not count."""
        found = set()
        for entry in walk_files(self.root):
            if entry.name.endswith(".png") and not entry.name.startswith(TEMPORARY) and entry.stat().st_size:
                found.add(Path(entry.path).relative_to(self.root).as_posix()[: -len(".png")])
        return found

    def references(self) -> dict[str, str]:
        root = os.path.abspath(self.root)
        return {key: label_map_reference(os.path.join(root, f"{key}.png"), self.layers) for key in self.keys()}

    def discard(self, keys: set[str]) -> None:
        for key in keys:
            self.path(key).unlink(missing_ok=True)

    def finish(self, records: list[dict], failed: dict[str, str]) -> None:
        """Nothing: every file is final when it is written."""


def check_key(key: str) -> None:
    """Raise ValueError for an image key that is no path below the root of its data set."""
    pure = PurePosixPath(key)
    if not key or pure.is_absolute() or ".." in pure.parts or "\0" in key or pure.as_posix() != key or key == ".":
        raise ValueError(f"image key: found {key!r}; expected a path below the root of its data set, without '..': move the image there")


def read_label_map(reference: str | os.PathLike, layer: int = 0) -> np.ndarray:
    """The label map that ``record["label_map_file_name"]`` names: a PNG file, or a part of a shard or tar (see ``references``).

    Args:
        reference: path or reference.
        layer: which, where there are several for an image.

    Returns:
        uint16 (H, W), 65535 = no region.

    Raises:
        ValueError: missing, damaged, not a 16-bit grey PNG, or no such layer.
    """
    place, layers = parse_label_map(reference)
    if not 0 <= layer < layers:
        raise ValueError(f"label map {reference}: found {layers} layer(s); expected more than {layer}")
    if isinstance(place, Range):
        return _read_packed(place, layer, layers)
    try:
        return decode_png(_read_file(place), layer, layers)
    except FileNotFoundError as error:
        raise ValueError(f"label map: found no {place}; expected one for every image: run tools/generate_masks.py again") from error
    except ValueError as error:
        raise ValueError(f"label map: {place}: {error}; delete it and run tools/generate_masks.py again") from error


def encode_png(stack: np.ndarray) -> bytes:
    """uint16 (layers, H, W) as one grey PNG of layers * H rows."""
    encoded, png = cv2.imencode(".png", stack.reshape(-1, stack.shape[2]), _PNG_PARAMS)
    assert encoded, stack.shape
    return png.tobytes()


def decode_png(data: bytes, layer: int = 0, layers: int = 1) -> np.ndarray:
    """One of the label maps of a PNG, uint16 (H, W). Raises ValueError: damaged, or not a 16-bit grey PNG of that many layers."""
    stack = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if stack is None:
        raise ValueError(f"its content is damaged ({len(data)} bytes)")
    if stack.dtype != np.uint16 or stack.ndim != 2:
        raise ValueError(f"found {stack.dtype} {stack.shape}; expected a 16-bit grey PNG")
    if len(stack) % layers:
        raise ValueError(f"found {len(stack)} rows; expected a multiple of its {layers} layers")
    return stack if layers == 1 else stack.reshape(layers, -1, stack.shape[1])[layer]


def damaged_message(name: str, folder: str | os.PathLike, reason: object) -> str:
    """What is wrong with a label map in a large file, and what to do."""
    return (
        f"label map: {name}: {reason}. Damaged label maps are found and removed by: python tools/merge_masks.py {folder} --repair; "
        "then run tools/generate_masks.py again"
    )


def _read_file(path: str | os.PathLike) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _read_packed(place: Range, layer: int, layers: int) -> np.ndarray:
    shard = place.path.endswith(".shard")
    try:
        # Once more with a new descriptor: the file may have been replaced.
        for fresh in (False, True):
            data = read_range(place, fresh=fresh)
            if not shard or is_intact(data):
                break
        return unpack_entry(data, layer) if shard else decode_png(data, layer, layers)
    except FileNotFoundError as error:
        raise ValueError(f"label map: found no {place.path}; expected one for every image: run tools/generate_masks.py again") from error
    except ValueError as error:
        name = f"bytes {place.offset}..{place.offset + place.length - 1} of {place.path}"
        raise ValueError(damaged_message(name, os.path.dirname(place.path), error)) from error
