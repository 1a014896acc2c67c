"""What stores of a few large files have in common: parts while label maps are made, packed into containers in the end."""

import itertools
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detcon_d2.io.references import Range, forget_file, label_map_reference, read_range
from detcon_d2.masks.store.parts import PartWriter, find_parts, scan_part
from detcon_d2.masks.store.storage import Store, check_key, damaged_message

IMAGES_PER_FILE = 2**19
"""Default number of images in a container: ImageNet's 1.28 million in three, of 1.5 GB with FH at its defaults."""

_PENDING = ".new-"
_DAMAGED = "its label map was damaged on disk"
_log = logging.getLogger(__name__)


class Item(NamedTuple):
    """An image in a container: its key, where its bytes are, and whether it failed (the bytes are the reason)."""

    key: str
    place: Range
    failed: bool


class Container(ABC):
    """A large file of label maps, for reading.

    Attributes:
        path: the file.
    """

    path: Path

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """All images, sorted by key."""

    @abstractmethod
    def find(self, key: str) -> Item | None:
        """An image."""


class PackedStore(Store):
    """A folder of containers, and of parts where work is unfinished.

    Which images stand in which container follows from the sorted list of all images, those that failed included, and what stands in it
    from them alone: the final files do not depend on who made them, in which order, or on interruptions. Between the last label map and
    the end of packing the folder needs twice the space.
    """

    suffix: str
    keeps_failures: bool

    def __init__(self, root: str | os.PathLike) -> None:
        super().__init__(root)
        self._forget()

    def _forget(self) -> None:
        self._writer = PartWriter(self.root)
        self._containers: list[Container] | None = None
        self._replacements: list[Container] | None = None
        self._parts: dict[str, Range] | None = None

    def __getstate__(self) -> dict:
        return {"root": self.root, "index": self.index, "layers": self.layers}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    @classmethod
    def create(cls, *args: object, images_per_file: int = IMAGES_PER_FILE, **options: object) -> "PackedStore":
        """As :meth:`Store.create`; ``images_per_file`` of a new folder, an old one keeps its own."""
        if images_per_file < 1:
            raise ValueError(f"images per file: found {images_per_file}; expected at least 1")
        return super().create(*args, images_per_file=images_per_file, **options)

    @abstractmethod
    def open_container(self, path: Path) -> Container:
        """Open one. Raises ValueError if it is damaged, or has label maps of other parameters."""

    @abstractmethod
    def write_container(self, path: Path, items: Iterable[tuple[str, bytes, bool]]) -> None:
        """Write one atomically from (key, data, failed), sorted by key."""

    @abstractmethod
    def pack_failure(self, reason: str) -> bytes:
        """What is stored for an image that failed."""

    def groups(self, records: list[dict], keys: set[str]) -> dict[str, list[str]]:
        """Name of a container -> keys of its images, sorted; ``keys`` are those of the records and all others that are known."""
        size, ordered = self.index["images_per_file"], sorted(keys)
        return {f"maps-{start // size:05d}{self.suffix}": ordered[start : start + size] for start in range(0, len(ordered), size)}

    def is_intact(self, data: bytes) -> bool:
        """Whether what was read is what :meth:`encode` or :meth:`pack_failure` gave."""
        return True

    def containers(self) -> list[Container]:
        """The finished containers, sorted by name."""
        if self._containers is None:
            paths = sorted(self.root.glob(f"*{self.suffix}"))
            self._containers = [self.open_container(path) for path in paths if not path.name.startswith(".")]
        return self._containers

    def _pending(self) -> list[Container]:
        """Complete containers that have not taken their places: packing was interrupted."""
        if self._replacements is None:
            self._replacements = [self.open_container(path) for path in sorted(self.root.glob(f"{_PENDING}*{self.suffix}"))]
        return self._replacements

    def read(self, key: str, layer: int = 0) -> np.ndarray:
        try:
            return super().read(key, layer)
        except ValueError as error:
            raise ValueError(damaged_message(f"{key} in {self.root}", self.root, error)) from error

    def read_bytes(self, key: str) -> bytes:
        place = self._find(key)
        if place is None:
            raise ValueError("found none; expected one for every image")
        data = read_range(place)
        return data if self.is_intact(data) else read_range(place, fresh=True)

    def write_bytes(self, key: str, data: bytes) -> None:
        check_key(key)
        self._writer.append(key, data)
        self._parts = None

    def keys(self) -> set[str]:
        """Keys of the images that have label maps here, in containers or on the way there."""
        containers = [*self.containers(), *self._pending()]
        return {item.key for container in containers for item in container.items() if not item.failed} | self._in_parts().keys()

    def references(self) -> dict[str, str]:
        """Of the images in containers; parts disappear when they are packed."""
        found = {}
        for container in self.containers():
            path = os.path.abspath(container.path)
            for item in container.items():
                if not item.failed:
                    found[item.key] = label_map_reference(Range(path, item.place.offset, item.place.length), self.layers)
        return found

    def discard(self, keys: set[str]) -> None:
        if keys:
            self._pack([], dict.fromkeys(keys, _DAMAGED), keys)

    def finish(self, records: list[dict], failed: dict[str, str]) -> None:
        self._pack(records, failed, set())

    def _find(self, key: str) -> Range | None:
        for container in [*self.containers(), *self._pending()]:
            if (item := container.find(key)) is not None and not item.failed:
                return item.place
        return self._in_parts().get(key)

    def _in_parts(self) -> dict[str, Range]:
        if self._parts is None:
            self._parts = {key: place for path in find_parts(self.root) for key, place in scan_part(path)}
        return self._parts

    def _pack(self, records: list[dict], failed: dict[str, str], damaged: set[str]) -> None:
        """Containers from everything there is. Nothing is deleted before all of it stands in complete containers."""
        self._writer.close()
        self._forget()
        old = {container.path.name: container for container in self.containers()}
        pending = self._pending()
        used = [*(container.path for container in pending), *find_parts(self.root)]
        places, reasons = self._known([*pending, *old.values()], damaged)
        reasons |= {key: self.pack_failure(reason) for key, reason in failed.items()}
        groups = self.groups(records, {record["key"] for record in records} | places.keys() | reasons.keys())
        wanted = {
            name: [(key, places.get(key), reasons.get(key)) for key in keys if key in places or self.keeps_failures]
            for name, keys in groups.items()
        }
        wanted = {name: items for name, items in wanted.items() if items}
        if lost := {record["key"] for record in records} - places.keys() - reasons.keys():
            raise RuntimeError(
                f"{self.root}: found no label map of {len(lost)} images that were made, such as {min(lost)}: another run packed the folder "
                "meanwhile; the same command makes them again"
            )
        replacements = []
        for name, items in wanted.items():
            if name not in old:
                self.write_container(self.root / name, self._load(items))
            elif not _is_same(old[name], items):
                # Beside the old one, which may hold label maps that belong into the next.
                target = _unused_name(self.root, name)
                self.write_container(target, self._load(items))
                replacements.append((target, self.root / name))
        for source, target in replacements:
            os.replace(source, target)
        for path in [*(self.root / name for name in old.keys() - wanted.keys()), *used]:
            path.unlink(missing_ok=True)
        for path in [*(container.path for container in old.values()), *used]:
            forget_file(str(path))
        self._forget()

    def _known(self, containers: list[Container], damaged: set[str]) -> tuple[dict[str, Range], dict[str, bytes]]:
        """Key -> place of all label maps but those, and key -> bytes of all failures."""
        places, reasons = self._in_parts().copy(), {}
        for item in (item for container in containers for item in container.items()):
            if item.failed:
                reasons[item.key] = read_range(item.place)
            else:
                places[item.key] = item.place
        return {key: place for key, place in places.items() if key not in damaged}, reasons

    def _load(self, items: list[tuple[str, Range | None, bytes | None]]) -> Iterator[tuple[str, bytes, bool]]:
        for key, place, reason in items:
            data = read_range(place) if place else reason
            if place and not self.is_intact(data):
                _log.warning("The label map of %s in %s is damaged; the next run makes it again.", key, place.path)
                place, data = None, self.pack_failure(_DAMAGED)
            yield key, data, place is None


def _is_same(container: Container, items: list[tuple[str, Range | None, bytes | None]]) -> bool:
    """Whether a container holds these images, and those that failed for the same reasons."""
    found = [(item.key, read_range(item.place) if item.failed else None) for item in container.items()]
    return found == [(key, None if place else reason) for key, place, reason in items]


def _unused_name(root: Path, name: str) -> Path:
    return next(path for number in itertools.count() if not (path := root / f"{_PENDING}{number}-{name}").exists())
