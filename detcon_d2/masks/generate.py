"""Make the label maps of a whole data set: in parallel, restartable, with a list of what failed."""

import re
import time
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np
from tqdm import tqdm

from detcon_d2.io.annotated.kinds import FORMS
from detcon_d2.io.atomic import remove_leftovers
from detcon_d2.io.images import PLAIN, Reading
from detcon_d2.io.names import printable
from detcon_d2.io.tiles import failed_keys, whole_record
from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.store.png_folder import LabelMapStore, check_key
from detcon_d2.masks.worker import map_records, map_with_ray, process_image

_FEW_REGIONS = 3
_RECORD_KEYS = ("file_name", "key", "image_id", "height", "width")
_ENGINES = {"processes": map_records, "ray": map_with_ray}


@dataclass
class Summary:
    """What a run did.

    Attributes:
        total: images of the run, each tile counted; of these ``skipped`` were finished by earlier runs and ``made`` now, in ``seconds`` of
            wall clock.
        failed: key of an image or tile -> reason; an image that could not be read is here once, whatever its number of tiles.
        unit: what is counted.
        median_regions: regions in the median label map; None if there is none. From at most 1,000 label maps, evenly spaced.
        advice: what to do about too few regions, or None.
    """

    total: int
    skipped: int
    made: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    unit: str = "images"
    seconds: float = 0.0
    median_regions: float | None = None
    advice: str | None = None

    def lines(self) -> list[str]:
        """The summary as text."""
        rate = f" ({self.made / self.seconds:.1f} {self.unit}/s)" if self.made else ""
        failed = self.total - self.skipped - self.made
        lines = [f"{self.total} {self.unit}: {self.made} made{rate}, {self.skipped} were there, {failed} failed"]
        if self.median_regions is not None:
            lines.append(f"median regions per image{' or tile' if self.unit != 'images' else ''}: {self.median_regions:g}")
        lines += [f"WARNING: {self.advice}"] if self.advice else []
        return lines + [f"FAILED {printable(key)}: {reason}" for key, reason in self.failed.items()]


def generate(
    records: list[dict], generator: RegionGenerator, store: LabelMapStore, *,
    workers: int = 1, progress: bool = True, part: tuple[int, int] | None = None, engine: str = "processes", reading: Reading = PLAIN,
) -> Summary:  # fmt: skip
    """Make the label maps that are missing.

    Images that cannot be used are skipped, listed in ``failed.txt`` and tried again by the next run. The result does not depend on the
    number of workers, on the engine, on interruptions, nor on the number of parts (after :func:`detcon_d2.masks.store.merge.merge`).

    Args:
        records: dataset dicts with "file_name" and "key" (:func:`detcon_d2.masks.list_images`), of images or tiles
            (:func:`detcon_d2.io.tiles.tile_records`). The tiles of an image are made together, and it is decoded once.
        generator, store: what makes the regions, and the store of this generator (:func:`detcon_d2.masks.create_store`).
        workers: processes; 1 works in this one.
        progress: show a progress bar with images/s.
        part: (i, n): only the i-th (from 0) of n equal parts of the images, sorted by key.
        reading: how images are read.
        engine: "processes" of this machine, or "ray": a Ray cluster, whose machines must see images and store under the same paths.

    Raises:
        ValueError: a key that leads out of the folder, one key for two files, or records without the annotations that the generator needs.
        RuntimeError: a worker process was killed. Finished label maps are kept; the same call continues.
        OSError: the folder cannot be written.
    """
    if engine not in _ENGINES:
        raise ValueError(f"engine: found {engine!r}; expected {' or '.join(map(repr, _ENGINES))}")
    records = _unique(records)
    if generator.needs_annotations and not any("annotations" in record for record in records):
        raise ValueError(f"{generator.name}: found no annotations in the data set; expected one of {FORMS}")
    if part is not None:
        records = records[len(records) * part[0] // part[1] : len(records) * (part[0] + 1) // part[1]]
    remove_leftovers(store.root)
    done = store.keys()
    todo = [record for record in records if record["key"] not in done]
    summary = Summary(total=len(records), skipped=len(records) - len(todo))
    if any("tile" in record for record in records):
        summary.unit = "images and tiles"
    if todo:
        generator.prepare()
    started = time.perf_counter()
    results = _ENGINES[engine](partial(process_image, generator=generator, store=store, reading=reading), _images(todo, generator), workers)
    # closing: an interrupt in this loop must end the worker processes now, not when the iterator is garbage collected.
    with (
        closing(results),
        tqdm(total=len(records), initial=summary.skipped, unit=f" {summary.unit}", disable=not progress, smoothing=0.05) as bar,
    ):
        for key, reason in chain.from_iterable(results):
            bar.update()
            summary.made += reason is None
            summary.failed |= {} if reason is None else {key: reason}
    summary.seconds = time.perf_counter() - started
    summary.failed = dict(sorted(summary.failed.items()))
    failed = failed_keys(records, summary.failed)
    store.write_failed(summary.failed, part)
    if part is None:
        store.finish(records, failed)
    if keys := [record["key"] for record in records if record["key"] not in failed]:
        _add_statistics(summary, keys, generator, store)
    return summary


def parse_part(text: str) -> tuple[int, int]:
    """``3/16`` -> (3, 16): part 3, counted from 0, of 16. Raises ValueError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"shard: found {text!r}; expected i/n with i from 0 to n - 1, such as 0/16 ... 15/16")
    return int(match[1]), int(match[2])


def evenly_spaced(items: list, count: int) -> list:
    """``count`` of the items, or all if there are fewer."""
    return [items[index] for index in np.unique(np.linspace(0, len(items) - 1, count).astype(int))]


def _images(records: list[dict], generator: RegionGenerator) -> list[dict]:
    """What a worker gets at once: an image's record, with its ``tiles`` if it has some."""
    names = (*_RECORD_KEYS, "annotations") if generator.needs_annotations else _RECORD_KEYS  # annotations are large to send
    images: dict[str, dict] = {}
    for record in records:
        whole = whole_record(record)
        image = images.setdefault(whole["key"], {name: whole[name] for name in names if name in whole})
        if "tile" in record:
            image.setdefault("tiles", []).append(record["tile"])
    return list(images.values())


def _unique(records: list[dict]) -> list[dict]:
    """One record per key, sorted by it; checks every key."""
    unique: dict[str, dict] = {}
    for record in records:
        check_key(record["key"])
        first = unique.setdefault(record["key"], record)
        if first["file_name"] != record["file_name"]:
            raise ValueError(
                f"found two images with the key {record['key']!r}: {first['file_name']} and {record['file_name']}; expected one: "
                "make their label maps in two output folders"
            )
    return [unique[key] for key in sorted(unique)]


def _add_statistics(summary: Summary, keys: list[str], generator: RegionGenerator, store: LabelMapStore) -> None:
    # Enough label maps for a median; reading them takes less than a second.
    maps = [store.read(key) for key in evenly_spaced(keys, 1000)]
    summary.median_regions = float(np.median([len(np.unique(label_map)) for label_map in maps]))
    height, width = np.median([label_map.shape for label_map in maps], axis=0).astype(int)
    options = generator.advice(height, width)
    if summary.median_regions < _FEW_REGIONS and options:
        summary.advice = (
            f"the median image has fewer than {_FEW_REGIONS} regions, which leaves little to contrast within it; "
            f"for images of {width}x{height} try {options} (in a new folder)"
        )
