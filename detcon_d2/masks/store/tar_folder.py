"""Label maps in a few tars: parts while they are made, packed into tars in the end."""

import itertools
import logging
import os
import re
from collections.abc import Iterator
from functools import cached_property

from detcon_d2.io.references import LabelMapReference, Range, forget_file, parse_image, read_range
from detcon_d2.masks.store.parts import PartWriter, find_parts, scan_part
from detcon_d2.masks.store.png import is_intact
from detcon_d2.masks.store.png_folder import LabelMapStore, check_key
from detcon_d2.masks.store.tar_file import LabelMapTar, index_path, open_tar, write_index, write_tar

IMAGES_PER_FILE = 2**19
"""Default number of images in a tar: ImageNet's 1.28 million in three, of 2.5 GB with FH at its defaults."""

_PENDING = ".new-"
# Tars of images that are not in tars themselves.
_BLOCK = re.compile(r"maps-\d{5,}\.tar")
_log = logging.getLogger(__name__)


class TarStore(LabelMapStore):
    """A folder of tars, each with an index next to it: one tar for each tar of images, of the same name, and ``maps-00000.tar`` and so on
    for images that are in no tar. While work is unfinished, parts hold the label maps.

    Images are assigned to tars by their position in the sorted list of all keys, failed images included, so the files are byte-identical
    for any number of workers, order or interruption. Packing needs twice the disk space for a while.
    """

    format = "tar"
    options = {"images_per_file": IMAGES_PER_FILE}

    def __init__(self, root: str | os.PathLike) -> None:
        super().__init__(root)
        self._writer = PartWriter(self.root)

    def __reduce__(self) -> tuple:
        return TarStore, (self.root,)

    @cached_property
    def tars(self) -> list[LabelMapTar]:
        """The finished tars, sorted by name. Raises ValueError if one is damaged or has label maps of other parameters."""
        return self._open("[!.]*.tar")

    @cached_property
    def _pending(self) -> list[LabelMapTar]:
        """Complete tars that do not have their final names yet, because packing was interrupted."""
        return self._open(f"{_PENDING}*.tar")

    @cached_property
    def _places(self) -> dict[str, Range]:
        """Key -> where the label maps are, in finished tars if they are there."""
        places = {key: place for path in find_parts(self.root) for key, place in scan_part(path)}
        for tar in [*self._pending, *self.tars]:
            places |= tar.places
        return places

    def _open(self, pattern: str) -> list[LabelMapTar]:
        tars = [open_tar(path) for path in sorted(self.root.glob(pattern))]
        for path, description, *_ in tars:
            if description is None or description["hash"] != self.index["hash"]:
                found = "no description" if description is None else f"label maps of {description['generator']}"
                raise ValueError(f"{path}: found {found}; expected the parameters of {self.root}/index.json: move it to where it belongs")
        return tars

    def reference(self, key: str) -> LabelMapReference:
        if key not in self._places:
            raise ValueError(f"label map of {key} in {self.root}: found none; expected one for every image")
        return self._reference(self._places[key])

    def write_png(self, key: str, data: bytes) -> None:
        check_key(key)
        self._writer.append(key, data)
        self.__dict__.pop("_places", None)

    def keys(self) -> set[str]:
        return set(self._places)

    def references(self) -> dict[str, LabelMapReference]:
        """Of the images in finished tars; parts are deleted when they are packed."""
        return {key: self._reference(place) for tar in self.tars for key, place in tar.places.items()}

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
        old = {tar.path.name: sorted(tar.places) for tar in self.tars}
        used = [*(tar.path for tar in self._pending), *find_parts(self.root)]
        places = {key: place for key, place in self._places.items() if key not in damaged}
        asked = {record["key"] for record in records}
        if lost := asked - places.keys() - failed:
            raise RuntimeError(
                f"{self.root}: found no label map of {len(lost)} images that were made, such as {min(lost)}: another run packed the folder "
                "in the meantime; run the same command again to make them"
            )
        groups = self._groups(records, asked | places.keys() | failed)
        wanted = {name: present for name, keys in groups.items() if (present := [key for key in keys if key in places])}
        description = {name: self.index[name] for name in ("generator", "params", "hash", "layers", "tiles") if name in self.index}
        written = []
        for name, keys in wanted.items():
            if old.get(name) != keys:
                target = self.root / name
                if name in old:
                    # The old tar stays until all new ones are complete: it may hold label maps that belong into another.
                    pending = (self.root / f"{_PENDING}{number}-{name}" for number in itertools.count())
                    target = next(path for path in pending if not path.exists())
                written.append((write_tar(target, description, self._load(keys, places)), self.root / name))
        for tar, path in written:
            index_path(path).unlink(missing_ok=True)  # first: an index must never be next to a tar that it does not belong to
            forget_file(str(path))  # a deleted file keeps its disk space while it is open
            os.replace(tar.path, path)
            write_index(path, tar)
        for path in [*(self.root / name for name in old.keys() - wanted.keys()), *used]:
            index_path(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            forget_file(str(path))
        self._forget()
        for tar in self.tars:
            if not tar.has_index:
                write_index(tar.path, tar)

    def _forget(self) -> None:
        self._writer.close()
        for name in ("tars", "_pending", "_places"):
            self.__dict__.pop(name, None)

    def _groups(self, records: list[dict], keys: set[str]) -> dict[str, list[str]]:
        """Name of a tar -> keys of its images, sorted."""
        names = {key: tar.path.name for tar in self.tars if not _BLOCK.fullmatch(tar.path.name) for key in tar.places}
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
