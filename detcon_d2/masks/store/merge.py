"""Check, repair, merge and convert folders of label maps."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from detcon_d2.io.atomic import remove_leftovers
from detcon_d2.io.images import PLAIN, Reading
from detcon_d2.io.labels import read_labels
from detcon_d2.io.names import printable
from detcon_d2.io.references import read_range
from detcon_d2.io.tar import expand_pattern
from detcon_d2.io.tiles import failed_keys, record_name, record_size
from detcon_d2.masks.command_lines import generate_command, merge_command
from detcon_d2.masks.store.formats import STORES, open_store
from detcon_d2.masks.store.index import INDEX_NAME, SHARDS, format_name, read_index
from detcon_d2.masks.store.old_shards import list_shards, unpack_entry
from detcon_d2.masks.store.png import encode_png, to_own_png
from detcon_d2.masks.store.png_folder import LabelMapStore, read_failed
from detcon_d2.masks.store.tar_file import open_tar

_EXAMPLES = 5


@dataclass
class CheckResult:
    """What was found in a folder of label maps.

    Attributes:
        total: number of images of the data set; ``others``: number of label maps of other images.
        missing: keys without label map.
        failed: key -> reason, of the images that could not be used; ``num_failed``: their number, each tile counted.
        damaged: key -> what is wrong with the label map, its size included; ``repaired``: whether these have been removed.
    """

    total: int
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    num_failed: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    others: int = 0
    repaired: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether every image has a good label map or cannot have one."""
        return not self.missing and not self.damaged

    def lines(self, store: LabelMapStore) -> list[str]:
        """The result as text, with the commands to run."""
        good = self.total - len(self.missing) - self.num_failed - len(self.damaged)
        unit = "images and tiles" if "tiles" in store.index else "images"
        lines = [
            f"{self.total} {unit}: {good} with label maps, {self.num_failed} failed, {len(self.missing)} missing, "
            f"{len(self.damaged)} damaged" + (f"; {self.others} label maps of other images" if self.others else "")
        ]
        lines += [f"FAILED {printable(key)}: {reason}" for key, reason in self.failed.items()]
        lines += [f"DAMAGED {printable(key)}: {printable(reason)}" for key, reason in self.damaged.items()]
        if self.missing:
            lines.append(f"MISSING {', '.join(map(printable, self.missing[:_EXAMPLES]))}{', ...' if len(self.missing) > _EXAMPLES else ''}")
        if self.damaged and not self.repaired:
            lines.append(f"remove the damaged ones with:  {merge_command(store.root, '--repair')}")
        if not self.is_complete:
            lines.append(f"make what is missing with:  {generate_command(store.index['source'], store.root, store.index)}")
        return lines


def check(
    store: LabelMapStore, records: list[dict], *, sizes: bool = False, progress: bool = False, reading: Reading = PLAIN
) -> CheckResult:
    """Read all label maps of a data set: dataset dicts with "key", and "file_name" if the ``sizes`` are compared with those of the images;
    ``progress``: show a progress bar; ``reading``: how images are read."""
    present, reasons = store.keys(), read_failed(store.root)
    failed = failed_keys(records, reasons)
    result = CheckResult(len(records), others=len(present - {record["key"] for record in records}))
    for record in tqdm(records, unit=" label maps", disable=not progress):
        key = record["key"]
        if key in present:
            try:
                shapes = {store.read(key, layer).shape for layer in range(store.layers)}
                if sizes and shapes != {expected := record_size(record, reading)}:
                    found = next(iter(shapes))
                    raise ValueError(f"found a size of {found}; expected {expected} (height, width), that of {record_name(record)}")
            except ValueError as error:
                result.damaged[key] = str(error)
        elif key in failed:
            result.failed[failed[key]] = reasons[failed[key]]
            result.num_failed += 1
        else:
            result.missing.append(key)
    return result


def merge(
    store: LabelMapStore, records: list[dict], *, sizes: bool = False, progress: bool = False, reading: Reading = PLAIN
) -> CheckResult:
    """:func:`check` the label maps of all images of a data set and, if they are complete, bring them into the form that one uninterrupted
    run gives them. Nothing may be writing to the store."""
    result = check(store, records, sizes=sizes, progress=progress, reading=reading)
    if result.is_complete:
        remove_leftovers(store.root)
        store.finish(sorted(records, key=lambda record: record["key"]), failed_keys(records, result.failed))
        store.write_failed(result.failed)
    return result


def take_over(output: str | os.PathLike, inputs: Iterable[str], file_format: str = "png", **options: int) -> LabelMapStore:
    """Copy the label maps of other folders, or of tars, into one folder; returns its store, for :func:`merge`.

    Args:
        output: the folder; an existing one keeps its format, a new one gets ``file_format``, "png" or "tar".
        inputs: folders of any format, those of earlier versions included, and ``tar:/data/train-{0000..0146}.tar`` with members
            ``<key>.seg.png``.
        options: as of :meth:`LabelMapStore.create`; ``same_images`` accepts inputs with other data set specs.

    Raises ValueError: nothing to open, or label maps of other parameters or another data set.
    """
    opened = [_open_input(name) for name in inputs]
    cls = type(open_store(output)) if os.path.exists(os.path.join(output, INDEX_NAME)) else STORES[file_format]
    for _, index, *_ in opened:
        arguments = index["generator"], index["params"], index["source"]
        store = cls.create(output, *arguments, layers=index.get("layers", 1), tiles=index.get("tiles", 0), **options)
    done, failed = store.keys(), read_failed(store.root)
    for one in opened:
        failed |= read_failed(one.root)
        for key in sorted(one.keys - done):
            try:
                store.write_png(key, one.read_png(key))
            except ValueError as error:
                raise ValueError(f"{one.root}: label map of {key}: {error}") from error
            done.add(key)
    store.write_failed({key: reason for key, reason in failed.items() if key not in done})
    return store


class _Input(NamedTuple):
    """Label maps to take over; ``read_png`` gives those of an image as a PNG that is read fast."""

    root: Path
    index: dict
    keys: set[str]
    read_png: Callable[[str], bytes]


def _open_input(name: str) -> _Input:
    if name.startswith("tar:"):
        return _open_tars(name.removeprefix("tar:"))
    root, index = Path(name), read_index(Path(name))
    if format_name(index) == SHARDS:
        places = list_shards(root)
        return _Input(root, index, set(places), lambda key: encode_png(unpack_entry(read_range(places[key]))))
    store = open_store(name)
    return _Input(root, index, store.keys(), lambda key: to_own_png(read_range(store.reference(key)), store.layers))


def _open_tars(pattern: str) -> _Input:
    """Label maps in tars outside of a folder with an index, perhaps made by another program and next to images."""
    tars = [open_tar(path) for path in expand_pattern(pattern)]
    places = {key: place for tar in tars for key, place in tar.places.items()}
    if not places:
        raise ValueError(f"tar:{pattern}: found no label map; expected members <key>.seg.png")
    own = tars[0].description
    if any(tar.description != own for tar in tars):
        raise ValueError(f"tar:{pattern}: found label maps of several parameters; expected those of one run: take them over one by one")
    spec = f"tar:{os.path.abspath(pattern)}"
    index = (own or {"generator": "imported", "params": {"masks": spec}}) | {"source": spec}

    def read_png(key: str) -> bytes:
        data = read_range(places[key])
        if own:
            return to_own_png(data, index.get("layers", 1))
        labels = read_labels(data)
        if labels.ndim != 2:
            raise ValueError("found a PNG of colours; expected 8 or 16 bits of label, or a palette")
        return encode_png(labels[None].astype(np.uint16))

    return _Input(Path(pattern).parent, index, set(places), read_png)
