"""Label maps on disk: one 16-bit grey PNG an image, beside an index that says how they were made."""

import hashlib
import itertools
import json
import logging
import os
import platform
import socket
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

INDEX_NAME = "index.json"
FAILED_NAME = "failed.txt"
FORMAT = "detcon_d2 label maps, 16-bit PNG"

# FH depends on how numpy sorts ties and on scikit-image's smoothing; the others on how images are decoded, resized and packed.
_LIBRARIES = ("numpy", "scipy", "scikit-image", "pillow", "pycocotools")
# Level 3 with OpenCV's run-length strategy reads 1.4 times as fast as level 6 for 1.4 times the size.
_PNG_PARAMS = (cv2.IMWRITE_PNG_COMPRESSION, 3)
_TEMPORARY = ".tmp-"
_counter = itertools.count()
_log = logging.getLogger(__name__)


class LabelMapStore:
    """A folder of label maps: ``<root>/<key>.png`` for the image with that key, and ``index.json``.

    Attributes:
        root: the folder.
        index: what ``index.json`` holds: format, generator, params, hash, source, versions.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        """Open an existing folder. Raises ValueError if it is none, or its index is damaged."""
        self.root = Path(root)
        self.index = _read_index(self.root)

    @classmethod
    def create(cls, root: str | os.PathLike, generator: str, params: dict, source: str, *, same_images: bool = False) -> "LabelMapStore":
        """Open a folder for writing; make it and its index if there is none.

        Args:
            root: the folder.
            generator: registered name.
            params: its parameters, plain values.
            source: data set spec or catalog name. Keys of two data sets can coincide, so another one is refused.
            same_images: accept another source: the same images at another place, or more of them.

        Raises:
            ValueError: the folder holds label maps of another generator, other parameters or another data set, or files without an index.
        """
        root = Path(root)
        wanted = {
            "format": FORMAT,
            "generator": generator,
            "params": params,
            "hash": params_hash(generator, params),
            "source": source,
            "versions": library_versions(),
        }
        if (root / INDEX_NAME).exists():
            _refuse_mixing(root, _read_index(root), wanted, same_images)
        else:
            _make_folder(root)
            write_atomically(root / INDEX_NAME, (json.dumps(wanted, indent=2) + "\n").encode())
        return cls(root)

    def path(self, key: str) -> Path:
        """Where the label map of an image is. Raises ValueError for a key that leads out of the folder."""
        pure = PurePosixPath(key)
        if not key or pure.is_absolute() or ".." in pure.parts or "\0" in key or pure.as_posix() != key or key == ".":
            raise ValueError(
                f"image key: found {key!r}; expected a path below the root of its data set, without '..': move the image there"
            )
        return self.root / f"{key}.png"

    def read(self, key: str) -> np.ndarray:
        """The label map of an image, uint16 (H, W); errors as :func:`read_label_map`."""
        return read_label_map(self.path(key))

    def write(self, key: str, label_map: np.ndarray) -> None:
        """Store a label map, uint16 (H, W); readers see all of it or nothing."""
        assert label_map.dtype == np.uint16 and label_map.ndim == 2, (label_map.dtype, label_map.shape)
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded, png = cv2.imencode(".png", label_map, _PNG_PARAMS)
        assert encoded, path
        write_atomically(path, png.tobytes())

    def keys(self) -> set[str]:
        """Keys of all label maps here. Empty files, as a power failure can leave them, do not count."""
        found = set()
        for entry in _files(self.root):
            if entry.name.endswith(".png") and not entry.name.startswith(_TEMPORARY) and entry.stat().st_size:
                found.add(Path(entry.path).relative_to(self.root).as_posix()[: -len(".png")])
        return found

    def remove_leftovers(self) -> None:
        """Delete the temporary files of processes of this machine that have died."""
        for entry in _files(self.root):
            if entry.name.startswith(_temporary_prefix()) and not _is_alive(int(entry.name.split("-")[-2])):
                os.unlink(entry.path)


def read_label_map(path: str | os.PathLike) -> np.ndarray:
    """A label map file.

    Returns:
        uint16 (H, W), 65535 = no region.

    Raises:
        ValueError: missing, damaged, or not a 16-bit grey PNG.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError as error:
        raise ValueError(f"label map: found no {path}; expected one for every image: run tools/generate_masks.py again") from error
    label_map = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if label_map is None:
        raise ValueError(f"label map: {path} is damaged ({len(data)} bytes); delete it and run tools/generate_masks.py again")
    if label_map.dtype != np.uint16 or label_map.ndim != 2:
        raise ValueError(f"label map: found {label_map.dtype} {label_map.shape} in {path}; expected a 16-bit grey PNG")
    return label_map


def params_hash(generator: str, params: dict) -> str:
    """sha256 of generator and parameters (sorted json): equal for label maps that may be mixed."""
    return hashlib.sha256(json.dumps({"generator": generator, "params": params}, sort_keys=True).encode()).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions on which the bytes of a label map can depend."""
    return {"python": platform.python_version(), "opencv": cv2.__version__} | {name: version(name) for name in _LIBRARIES}


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name in its folder, then rename: nobody ever sees half of it. Raises OSError with the reason."""
    temporary = path.parent / f"{_temporary_prefix()}{os.getpid()}-{next(_counter)}"
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}; what was written before is kept") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _temporary_prefix() -> str:
    return f"{_TEMPORARY}{socket.gethostname().replace('-', '_')}-"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _files(folder: str | os.PathLike) -> Iterator[os.DirEntry]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path)
            else:
                yield entry


def _read_index(root: Path) -> dict:
    path = root / INDEX_NAME
    try:
        index = json.loads(path.read_bytes())
        consistent = index["format"] == FORMAT and index["hash"] == params_hash(index["generator"], index["params"])
    except FileNotFoundError as error:
        raise ValueError(f"label maps: found no {path}; expected a folder made by tools/generate_masks.py") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"label maps: {path} is damaged ({type(error).__name__}: {error}); make the label maps anew") from error
    if not consistent:
        raise ValueError(
            f"label maps: {path} has format {index['format']!r} and hash {index['hash']}; expected {FORMAT!r} and the hash of its "
            "generator and params: it was edited or made by another version; make the label maps anew"
        )
    return index


def _refuse_mixing(root: Path, found: dict, wanted: dict, same_images: bool) -> None:
    if found["hash"] != wanted["hash"]:
        raise ValueError(
            f"{root}: found label maps of {found['generator']} {found['params']}; expected {wanted['generator']} {wanted['params']}. "
            "One folder holds one set of parameters: choose another output folder, or the parameters of this one"
        )
    if found["source"] != wanted["source"] and not same_images:
        raise ValueError(
            f"{root}: found label maps of the images of {found['source']}; expected {wanted['source']}. Two data sets may use the same "
            "file names: choose another output folder, or pass --same-images if these are the same images"
        )
    changed = [
        f"{name} {found['versions'].get(name)} -> {new}" for name, new in wanted["versions"].items() if found["versions"].get(name) != new
    ]
    if changed:
        _log.warning(
            "%s was begun with other versions (%s): new label maps may differ in detail from a run in one go", root, ", ".join(changed)
        )


def _make_folder(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    strangers = [entry.name for entry in os.scandir(root) if not entry.name.startswith(_TEMPORARY)]
    if strangers:
        raise ValueError(
            f"{root}: found {len(strangers)} file(s) such as {sorted(strangers)[0]!r} but no {INDEX_NAME}; expected an empty or new "
            "folder, or one made by tools/generate_masks.py"
        )
