"""Label maps in a few tars: parts while they are made, packed into tars in the end."""

import itertools
import logging
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from detcon_d2.io.references import LabelMapReference, Range, forget_file, parse_image, read_range
from detcon_d2.masks.store.parts import PartWriter, find_parts, scan_part
from detcon_d2.masks.store.png import is_intact
from detcon_d2.masks.store.png_folder import LabelMapStore, check_key
from detcon_d2.masks.store.tar_file import LabelMapTar, index_path, open_tar, write_tar

IMAGES_PER_FILE = 2**19
"""Default number of images in a tar: ImageNet's 1.28 million in three, of 2.5 GB with FH at its defaults."""

_PENDING = ".new-"
# Tars of images that are not in tars themselves.
_BLOCK = re.compile(r"maps-\d{5,}\.tar")
_CACHED = ("tars", "_pending", "_parts")
_log = logging.getLogger(__name__)


class TarStore(LabelMapStore):
    """A folder of tars, each with an index next to it: one tar for each tar of images, of the same name, and ``maps-00000.tar`` and so on
    for images that are in no tar. While work is unfinished, parts hold the label maps.

    Images are assigned to tars by their position in the sorted list of all keys, failed images included, so the files are byte-identical
    for any number of workers, order or interruption. Packing needs twice the disk space for a while.
    """

    format = "tar"

    def __init__(self, root: str | os.PathLike) -> None:
        super().__init__(root)
        self._writer = PartWriter(self.root)

    def __getstate__(self) -> dict:
        return {"root": self.root, "index": self.index, "layers": self.layers}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._writer = PartWriter(self.root)

    @classmethod
    def create(cls, *args: object, images_per_file: int = IMAGES_PER_FILE, **options: object) -> "TarStore":
        """As :meth:`LabelMapStore.create`; ``images_per_file`` is for a new folder, an existing one keeps its own."""
        if images_per_file < 1:
            raise ValueError(f"images per file: found {images_per_file}; expected at least 1")
        return super().create(*args, images_per_file=images_per_file, **options)

    @cached_property
    def tars(self) -> list[LabelMapTar]:
        """The finished tars, sorted by name. Raises ValueError if one is damaged or has label maps of other parameters."""
        return [self._open(path) for path in sorted(self.root.glob("*.tar")) if not path.name.startswith(".")]

    @cached_property
    def _pending(self) -> list[LabelMapTar]:
        """Complete tars that do not have their final names yet, because packing was interrupted."""
        return [self._open(path) for path in sorted(self.root.glob(f"{_PENDING}*.tar"))]

    @cached_property
    def _parts(self) -> dict[str, Range]:
        return {key: place for path in find_parts(self.root) for key, place in scan_part(path)}

    def _open(self, path: Path) -> LabelMapTar:
        tar = open_tar(path)
        if tar.description is None or tar.description["hash"] != self.index["hash"]:
            found = "no description" if tar.description is None else f"label maps of {tar.description['generator']}"
            raise ValueError(f"{path}: found {found}; expected the parameters of {self.root}/index.json: move it to where it belongs")
        return tar

    def reference(self, key: str) -> LabelMapReference:
        in_tars = (tar.find(key) for tar in [*self.tars, *self._pending])
        place = next(filter(None, in_tars), None) or self._parts.get(key)
        if place is None:
            raise ValueError(f"label map of {key} in {self.root}: found none; expected one for every image")
        return self._reference(place)

    def write_png(self, key: str, data: bytes) -> None:
        check_key(key)
        self._writer.append(key, data)
        self.__dict__.pop("_parts", None)

    def keys(self) -> set[str]:
        return self._parts.keys() | {key for tar in [*self.tars, *self._pending] for key in tar.keys}

    def references(self) -> dict[str, LabelMapReference]:
        """Of the images in finished tars; parts are deleted when they are packed."""
        return {key: self._reference(place) for tar in self.tars for key, place in tar.items()}

    def _reference(self, place: Range) -> LabelMapReference:
        return LabelMapReference(os.path.abspath(place.path), self.layers, place.offset, place.length)

    def discard(self, keys: set[str]) -> None:
        if keys:
            self._pack([], keys, keys)

    def finish(self, records: list[dict], failed: dict[str, str]) -> None:
        self._pack(records, failed.keys(), set())

    def _pack(self, records: list[dict], failed: set[str], damaged: set[str]) -> None:
        """Write all label maps into tars. Nothing is deleted before all of it is in complete tars."""
        self._forget()
        old = {tar.path.name: tar for tar in self.tars}
        used = [*(tar.path for tar in self._pending), *find_parts(self.root)]
        places = self._parts | {key: place for tar in [*self._pending, *self.tars] for key, place in tar.items()}
        places = {key: place for key, place in places.items() if key not in damaged}
        asked = {record["key"] for record in records}
        if lost := asked - places.keys() - failed:
            raise RuntimeError(
                f"{self.root}: found no label map of {len(lost)} images that were made, such as {min(lost)}: another run packed the folder "
                "in the meantime; run the same command again to make them"
            )
        groups = self._groups(records, asked | places.keys() | failed)
        wanted = {name: present for name, keys in groups.items() if (present := [key for key in keys if key in places])}
        written = []
        for name, keys in wanted.items():
            if name not in old or old[name].keys != keys:
                # The old tar stays until all new ones are complete: it may hold label maps that belong into another.
                target = _unused_name(self.root, name) if name in old else self.root / name
                written.append((write_tar(target, self._description(), self._load(keys, places)), self.root / name))
        for tar, path in written:
            tar.move_to(path)
        for path in [*(self.root / name for name in old.keys() - wanted.keys()), *used]:
            index_path(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        for path in [*(tar.path for tar in old.values()), *used]:
            forget_file(str(path))
        self._forget()
        for tar in self.tars:
            if not tar.has_index:
                tar.write_index()

    def _forget(self) -> None:
        self._writer.close()
        for name in _CACHED:
            self.__dict__.pop(name, None)

    def _description(self) -> dict:
        return {name: self.index[name] for name in ("generator", "params", "hash", "layers")}

    def _groups(self, records: list[dict], keys: set[str]) -> dict[str, list[str]]:
        """Name of a tar -> keys of its images, sorted."""
        names = {key: tar.path.name for tar in self.tars if not _BLOCK.fullmatch(tar.path.name) for key in tar.keys}
        for record in records:
            if (place := parse_image(record.get("file_name", ""))) is not None:
                names[record["key"]] = os.path.basename(place.path)
        groups: dict[str, list[str]] = {}
        for key in sorted(keys & names.keys()):
            groups.setdefault(names[key], []).append(key)
        size, others = self.index["images_per_file"], sorted(keys - names.keys())
        return groups | {f"maps-{start // size:05d}.tar": others[start : start + size] for start in range(0, len(others), size)}

    def _load(self, keys: list[str], places: dict[str, Range]) -> Iterator[tuple[str, bytes]]:
        for key in keys:
            data = read_range(places[key])
            if is_intact(data):
                yield key, data
            else:
                _log.warning("The label map of %s in %s is damaged; the next run makes it again.", key, places[key].path)


def _unused_name(root: Path, name: str) -> Path:
    return next(path for number in itertools.count() if not (path := root / f"{_PENDING}{number}-{name}").exists())
