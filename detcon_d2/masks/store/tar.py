"""WebDataset tars: images in, label maps out, and back. Nothing is ever extracted to disk.

A sample's key is the name of its members up to the first dot of the last part: ``a/7.jpg``, ``a/7.cls`` and ``a/7.seg.png`` are the image,
the class (a number as text) and the label map of ``a/7``. A tar of label maps made here says in its global pax header, as a comment, how
they were made (json: generator, params, hash, layers); a member whose image has a key with an extension says that key in the same way.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from detcon_d2.io.atomic import atomic_file
from detcon_d2.io.references import Range, parse_image, read_range
from detcon_d2.io.tar import COMMENT, members, split_member
from detcon_d2.masks.store.packed import Container, Item, PackedStore
from detcon_d2.masks.store.storage import decode_png, encode_png

LABEL_MAP_SUFFIX = ".seg.png"
# Names of tars that hold what came from no tar.
_BLOCK = re.compile(r"maps-\d{5,}\.tar")


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
        for member, _, common in members(path):
            self.description = _parse_description(common)
            stem, extension = split_member(member.name)
            key = member.pax_headers.get(COMMENT)
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
                fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={COMMENT: json.dumps(description, sort_keys=True)}
            ) as tar,
        ):
            for key, data, failed in items:
                if failed:
                    continue
                stem = split_member(key)[0]
                member = tarfile.TarInfo((key if stem in used else stem) + LABEL_MAP_SUFFIX)
                used.add(stem)
                member.size = len(data)
                member.pax_headers = {} if key == stem else {COMMENT: key}
                tar.addfile(member, io.BytesIO(data))


def _parse_description(comment: str | None) -> dict | None:
    try:
        description = json.loads(comment or "null")
    except ValueError:
        return None
    return description if isinstance(description, dict) and "hash" in description else None
