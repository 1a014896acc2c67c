"""``index.json`` in a folder of label maps: how they were made, so that no others are mixed in."""

import hashlib
import json
import logging
import os
import platform
from importlib.metadata import version
from pathlib import Path

import cv2

from detcon_d2.io.atomic import TEMPORARY, write_bytes_atomically, write_error
from detcon_d2.io.tiles import describe_tiles

INDEX_NAME = "index.json"
FORMATS = {"png": "detcon_d2 label maps, PNG", "tar": "detcon_d2 label maps, PNG in WebDataset tars"}
"""Short name -> "format" in an index."""

SHARDS = "shards"
"""Short name of a format of earlier versions, which tools/merge_masks.py converts."""

_OLD_FORMATS = {
    "png": "detcon_d2 label maps, 16-bit PNG",
    "tar": "detcon_d2 label maps, 16-bit PNG in WebDataset tars",
    SHARDS: "detcon_d2 label maps, shards",
}
_NAMES = {text: name for formats in (FORMATS, _OLD_FORMATS) for name, text in formats.items()}
# FH depends on how numpy sorts equal values and on scikit-image's smoothing; the others on how images are decoded and resized.
_LIBRARIES = ("numpy", "scipy", "scikit-image", "pillow", "pycocotools")
_log = logging.getLogger(__name__)


def params_hash(generator: str, params: dict, tiles: int = 0) -> str:
    """sha256 of generator, parameters and side of the tiles (sorted json): equal for label maps that may be mixed."""
    made = {"generator": generator, "params": params} | ({"tiles": tiles} if tiles else {})
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions that the values of label maps can depend on."""
    return {"python": platform.python_version(), "opencv": cv2.__version__} | {name: version(name) for name in _LIBRARIES}


def format_name(index: dict) -> str:
    """The short name of an index's format."""
    return _NAMES[index["format"]]


def make_index(root: Path, wanted: dict, *, same_images: bool) -> None:
    """Write ``index.json`` of a folder, which is made if it does not exist, or check the one that it has.

    ``wanted``: "format", "generator", "params", "source" (the data set), "tiles" unless they are of whole images, and more;
    ``same_images``: accept another data set.

    Raises:
        ValueError: another format, generator, parameters or data set, or files without an index.
        OSError: the folder cannot be made or written.
    """
    wanted |= {"hash": _hash_of(wanted), "versions": library_versions()}
    if not (root / INDEX_NAME).exists() and _make_folder(root):
        write_bytes_atomically(root / INDEX_NAME, (json.dumps(wanted, indent=2) + "\n").encode())
    _refuse_mixing(root, read_index(root), wanted, same_images)


def read_index(root: Path) -> dict:
    """The index of a folder. Raises ValueError if it has none, or a damaged or edited one."""
    path = root / INDEX_NAME
    try:
        index = json.loads(path.read_bytes())
        consistent = index["format"] in _NAMES and index["hash"] == _hash_of(index)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"label maps: found no {path}; expected a folder made by tools/generate_masks.py") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"label maps: {path} is damaged ({type(error).__name__}: {error}); make the label maps again") from error
    if not consistent:
        raise ValueError(
            f"label maps: {path} has format {index['format']!r} and hash {index['hash']}; expected one of {list(FORMATS.values())} and "
            "the hash of its generator, params and tiles: it was edited or made by another version; make the label maps again"
        )
    return index


def _hash_of(index: dict) -> str:
    return params_hash(index["generator"], index["params"], index.get("tiles", 0))


def _tiles_of(index: dict) -> str:
    return describe_tiles(index.get("tiles", 0))


def _refuse_mixing(root: Path, found: dict, wanted: dict, same_images: bool) -> None:
    if found["hash"] != wanted["hash"]:
        mixed = found.get("tiles") != wanted.get("tiles")
        both = (f"{made['generator']} {made['params']}" + (f" of {_tiles_of(made)}" if mixed else "") for made in (found, wanted))
        raise ValueError(
            f"{root}: found label maps of {next(both)}; expected {next(both)}. A folder holds label maps of one set of parameters: choose "
            "another output folder, or the parameters of this one"
        )
    if format_name(found) != format_name(wanted):
        raise ValueError(
            f"{root}: found {found['format']!r}; expected {wanted['format']!r}: choose another output folder"
            + (", or convert it with tools/merge_masks.py" if format_name(found) == SHARDS else f", or --format {format_name(found)}")
        )
    if found["source"] != wanted["source"] and not same_images:
        raise ValueError(
            f"{root}: found label maps of the images of {found['source']}; expected {wanted['source']}. Two data sets may use the same "
            "file names: choose another output folder, or pass --same-images if these are the same images"
        )
    old, new = found["versions"], wanted["versions"]
    if changed := ", ".join(f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]):
        text = "%s was begun with other versions (%s): new label maps may differ slightly from those of an uninterrupted run"
        _log.warning(text, root, changed)


def _make_folder(root: Path) -> bool:
    """Whether the folder is new or empty; another machine may have made the index at the same time."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        others = [entry.name for entry in os.scandir(root) if not entry.name.startswith(TEMPORARY)]
    except OSError as error:
        raise write_error(root, error) from error
    if (root / INDEX_NAME).exists():
        return False
    if others:
        raise ValueError(
            f"{root}: found {len(others)} file(s) such as {sorted(others)[0]!r} but no {INDEX_NAME}; expected an empty or new folder, or "
            "one made by tools/generate_masks.py"
        )
    return True
