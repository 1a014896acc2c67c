"""The last step of work in parts, and of any work: are all label maps there and readable? And from one format to another."""

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from detcon_d2.io.images import image_size
from detcon_d2.io.references import read_range
from detcon_d2.io.tar import expand_pattern
from detcon_d2.masks.command import generate_command, merge_command
from detcon_d2.masks.generate import read_failed, write_failed
from detcon_d2.masks.store.index import params_hash
from detcon_d2.masks.store.storage import Store
from detcon_d2.masks.store.stores import STORES, open_store
from detcon_d2.masks.store.tar import LabelMapTar

_NAMED = 5
_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B")


@dataclass
class Report:
    """What stands in a folder of label maps.

    Attributes:
        total: images asked for.
        missing: keys without label map.
        failed: key -> reason, of those that could not be made.
        damaged: key -> what is wrong with the label map, its size included.
        unasked: label maps of other images.
        repaired: whether the damaged ones have been removed.
    """

    total: int
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    unasked: int = 0
    repaired: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether every image has a good label map or cannot have one."""
        return not self.missing and not self.damaged

    def lines(self, store: Store, source: str) -> list[str]:
        """The report, for people, with the commands to run."""
        good = self.total - len(self.missing) - len(self.failed) - len(self.damaged)
        lines = [
            f"{self.total} images: {good} with label maps, {len(self.failed)} failed, {len(self.missing)} missing, "
            f"{len(self.damaged)} damaged" + (f"; {self.unasked} label maps of other images" if self.unasked else "")
        ]
        lines += [f"FAILED {key}: {reason}" for key, reason in self.failed.items()]
        lines += [f"DAMAGED {key}: {reason}" for key, reason in self.damaged.items()]
        if self.missing:
            lines.append(f"MISSING {', '.join(self.missing[:_NAMED])}{', ...' if len(self.missing) > _NAMED else ''}")
        if self.damaged and not self.repaired:
            lines.append(f"remove the damaged ones with:  {merge_command(store.root, '--repair')}")
        if not self.is_complete:
            lines.append(f"make what is missing with:  {generate_command(source, store.root, store.index)}")
        return lines


def check(store: Store, records: list[dict], *, sizes: bool = False, progress: bool = False) -> Report:
    """Read all label maps of a data set.

    Args:
        store: where they are.
        records: dataset dicts with "key", and for ``sizes`` "file_name".
        sizes: compare their sizes with those of the images.
        progress: show a progress bar.
    """
    present, failed = store.keys(), read_failed(store.root)
    report = Report(len(records), unasked=len(present - {record["key"] for record in records}))
    for record in tqdm(records, unit=" label maps", disable=not progress):
        key = record["key"]
        if key in present:
            try:
                _check_one(store, record, sizes)
            except ValueError as error:
                report.damaged[key] = str(error)
        elif key in failed:
            report.failed[key] = failed[key]
        else:
            report.missing.append(key)
    return report


def repair(store: Store, report: Report) -> None:
    """Remove what a report calls damaged, so that the next run of tools/generate_masks.py makes it."""
    store.discard(set(report.damaged))
    report.repaired = True


def merge(store: Store, records: list[dict], *, sizes: bool = False, progress: bool = False) -> Report:
    """Check the label maps of a data set, and if they are complete put them into their final form, as one run in one go does.

    Args:
        store: where the parts are; nothing may be writing to it.
        records: all images of the data set.
        sizes: see :func:`check`.
        progress: show a progress bar.
    """
    report = check(store, records, sizes=sizes, progress=progress)
    if report.is_complete:
        store.remove_leftovers()
        store.finish(sorted(records, key=lambda record: record["key"]), report.failed)
        write_failed(report.failed, store)
    return report


def take_over(
    output: str | os.PathLike, inputs: Iterable[str], file_format: str = "png", *, same_images: bool = False, **options: int
) -> Store:
    """Copy label maps of other folders, or of tars, into one.

    Args:
        output: folder; one that is there keeps its format.
        inputs: folders of any format, and ``tar:/data/train-{0000..0146}.tar`` with ``<key>.seg.png`` in it.
        file_format: of a new folder: "png", "shards" or "tar".
        same_images: accept inputs of other data set specs: the same images at another place, or other parts of them.
        options: of a new folder: images_per_file.

    Returns:
        The store in ``output``, to :func:`merge`.

    Raises:
        ValueError: nothing to open, or label maps of other parameters or another data set.
    """
    sources = [_TarInput(name.removeprefix("tar:")) if name.startswith("tar:") else open_store(name) for name in inputs]
    cls = type(open_store(output)) if os.path.exists(os.path.join(output, "index.json")) else STORES[file_format]
    for source in sources:
        store = cls.create(
            output, source.index["generator"], source.index["params"], source.index["source"],
            layers=source.layers, same_images=same_images, **({} if cls.format == "png" else options),
        )  # fmt: skip
    done, failed = store.keys(), read_failed(store.root)
    for source in sources:
        failed |= read_failed(source.root)
        for key in sorted(source.keys() - done):
            store.write_bytes(key, _convert(key, source, store))
            done.add(key)
    write_failed({key: reason for key, reason in failed.items() if key not in done}, store)
    return store


class _TarInput:
    """Label maps in tars that others made, or that lie beside images: the side of a store that is read."""

    def __init__(self, pattern: str) -> None:
        tars = [LabelMapTar(path) for path in expand_pattern(pattern)]
        self._items = {item.key: item for tar in tars for item in tar.items()}
        if not self._items:
            raise ValueError(f"tar:{pattern}: found no label map; expected members <key>.seg.png")
        descriptions = [tar.description for tar in tars]
        if any(description != descriptions[0] for description in descriptions):
            raise ValueError(f"tar:{pattern}: found label maps of several parameters; expected those of one run: take them over one by one")
        own, spec = descriptions[0], f"tar:{os.path.abspath(pattern)}"
        params = {"masks": spec}
        self.index = (own or {"generator": "imported", "params": params, "hash": params_hash("imported", params)}) | {"source": spec}
        self.layers: int = self.index.get("layers", 1)
        self.encoding = "png" if own else "any png"
        self.root = Path(pattern).parent

    def keys(self) -> set[str]:
        return set(self._items)

    def read_bytes(self, key: str) -> bytes:
        return read_range(self._items[key].place)

    def read(self, key: str, layer: int) -> np.ndarray:
        with Image.open(io.BytesIO(self.read_bytes(key))) as image:
            if image.mode not in _LABEL_MODES:
                raise ValueError(f"found a PNG of mode {image.mode}; expected 8 or 16 bits of label, or a palette")
            stack = np.array(image).astype(np.uint16)
        return stack.reshape(self.layers, -1, stack.shape[1])[layer]


def _convert(key: str, source: Store | _TarInput, store: Store) -> bytes:
    if source.encoding == store.encoding:
        return source.read_bytes(key)
    try:
        return store.encode(np.stack([source.read(key, layer) for layer in range(source.layers)]))
    except (ValueError, OSError) as error:
        raise ValueError(f"{source.root}: label map of {key}: {error}") from error


def _check_one(store: Store, record: dict, sizes: bool) -> None:
    shapes = {store.read(record["key"], layer).shape for layer in range(store.layers)}
    if sizes and shapes != {expected := image_size(record["file_name"])}:
        raise ValueError(f"found a size of {next(iter(shapes))}; expected {expected} (height, width), that of {record['file_name']}")
