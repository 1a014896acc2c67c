"""Label maps for a whole data set: parallel over processes, restartable, and honest about what failed."""

import logging
import multiprocessing
import re
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.ray_data import process_with_ray
from detcon_d2.masks.store.storage import FAILED_NAME, Store, check_key
from detcon_d2.masks.worker import one_thread_each, process_chunk, process_image, start_worker

# Small, so that Ctrl-C and a killed worker cost little; sending a task takes less than a millisecond.
_CHUNK = 4
# Enough label maps for a median; reading them takes about a second.
_SAMPLE = 1000
_FEW_REGIONS = 3
_log = logging.getLogger(__name__)


@dataclass
class Summary:
    """What a run did.

    Attributes:
        total: images asked for.
        skipped: of these, already done before.
        made: done now.
        failed: key -> reason.
        seconds: wall clock of the making.
        median_regions: regions in the median label map; None if there is none. From at most 1,000 of them, evenly spaced.
        advice: what to do about too few regions, or None.
    """

    total: int
    skipped: int
    made: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    median_regions: float | None = None
    advice: str | None = None

    def lines(self) -> list[str]:
        """The report, for people."""
        rate = f" ({self.made / self.seconds:.1f} images/s)" if self.made else ""
        lines = [f"{self.total} images: {self.made} made{rate}, {self.skipped} were there, {len(self.failed)} failed"]
        if self.median_regions is not None:
            lines.append(f"median regions per image: {self.median_regions:g}")
        lines += [f"WARNING: {self.advice}"] if self.advice else []
        return lines + [f"FAILED {key}: {reason}" for key, reason in self.failed.items()]


def generate(
    records: list[dict],
    generator: RegionGenerator,
    store: Store,
    *,
    workers: int = 1,
    progress: bool = True,
    part: tuple[int, int] | None = None,
    engine: str = "processes",
) -> Summary:
    """Make the missing label maps of a data set.

    An image that cannot be read or segmented is reported, listed in ``failed.txt``, and tried again by the next run; the others go on.
    The result does not depend on the number of workers, on the engine, on interruptions, nor on how many parts the work is done in (after
    :func:`detcon_d2.masks.store.merge.merge`).

    Args:
        records: dataset dicts with "file_name" and "key" (:func:`detcon_d2.masks.list_images`).
        generator: makes the regions; pickled to the workers.
        store: opened with :meth:`Store.create` for this generator.
        workers: processes; 1 works in this one.
        progress: show a progress bar with images/s.
        part: (i, n): only the i-th (from 0) of n equal parts of the images, sorted by key; other machines do the others in the same folder,
            or each in one of its own.
        engine: "processes" of this machine, or "ray": the machines of a Ray cluster, which must see images and store under the same paths.

    Raises:
        ValueError: a key that leads out of the folder, one key for two files, or records without the annotations that the generator needs.
        RuntimeError: a worker process was killed. What is done stays; the same call continues.
        OSError: the folder cannot be written.
    """
    records = _unique(records)
    if generator.needs_annotations and not any("annotations" in record for record in records):
        raise ValueError(f"{generator.name}: found no annotations in the data set; expected coco:/path/instances.json,/path/images")
    if part is not None:
        records = records[len(records) * part[0] // part[1] : len(records) * (part[0] + 1) // part[1]]
    store.remove_leftovers()
    done = store.keys()
    todo = [_task(record, generator) for record in records if record["key"] not in done]
    summary = Summary(total=len(records), skipped=len(records) - len(todo))
    if todo and hasattr(generator, "prepare"):
        generator.prepare()  # once, before there are workers
    started = time.perf_counter()
    results = _start(todo, generator, store, workers, engine)
    # closing: an interrupt in this loop must reach the pool now, not when the garbage collector finds it.
    with closing(results), tqdm(total=len(records), initial=summary.skipped, unit=" images", disable=not progress, smoothing=0.05) as bar:
        for key, reason in results:
            bar.update()
            if reason is None:
                summary.made += 1
            else:
                summary.failed[key] = reason
    summary.seconds = time.perf_counter() - started
    summary.failed = dict(sorted(summary.failed.items()))
    write_failed(summary.failed, store, part)
    if part is None:
        store.finish(records, summary.failed)
    _add_statistics(summary, [record["key"] for record in records if record["key"] not in summary.failed], generator, store)
    return summary


def parse_part(text: str) -> tuple[int, int]:
    """``3/16`` -> (3, 16): part 3, counted from 0, of 16. Raises ValueError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"shard: found {text!r}; expected i/n with i from 0 to n - 1, such as 0/16 ... 15/16")
    return int(match[1]), int(match[2])


def _unique(records: list[dict]) -> list[dict]:
    """One record a key, sorted by it; checks every key."""
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


def _task(record: dict, generator: RegionGenerator) -> dict:
    """What a worker needs of a record; annotations are heavy to send."""
    names = ("file_name", "key", "image_id", "height", "width") + (("annotations",) if generator.needs_annotations else ())
    return {name: record[name] for name in names if name in record}


def _start(tasks: list[dict], generator: RegionGenerator, store: Store, workers: int, engine: str) -> Iterator[tuple[str, str | None]]:
    """(key, reason of failure or None) of each image when it is done."""
    if engine == "ray":
        return process_with_ray(tasks, generator, store, workers)
    if engine != "processes":
        raise ValueError(f"engine: found {engine!r}; expected 'processes' or 'ray'")
    return _in_this_process(tasks, generator, store) if workers <= 1 else _in_processes(tasks, generator, store, workers)


def _in_this_process(tasks: list[dict], generator: RegionGenerator, store: Store) -> Iterator[tuple[str, str | None]]:
    for task in tasks:
        yield task["key"], process_image(task, generator, store)


def _in_processes(tasks: list[dict], generator: RegionGenerator, store: Store, workers: int) -> Iterator[tuple[str, str | None]]:
    chunks = (tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK))
    running: dict[Future, list[dict]] = {}
    # spawn: forking a process that has threads (OpenCV, torch with a catalog name) can hang; the workers' imports are light.
    context = multiprocessing.get_context("spawn")
    with one_thread_each(), ProcessPoolExecutor(workers, context, start_worker, (generator, store)) as pool:
        try:
            while True:
                while len(running) < 2 * workers and (chunk := next(chunks, None)):
                    running[pool.submit(process_chunk, chunk)] = chunk
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield from future.result()
                    del running[future]
        except BrokenProcessPool as error:
            raise RuntimeError(_killed_message(running)) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _killed_message(running: dict[Future, list[dict]]) -> str:
    names = [task["file_name"] for chunk in list(running.values())[:4] for task in chunk]
    return (
        "a worker process was killed, most often because memory ran out; the label maps made so far are kept, and the same command "
        f"continues (with fewer --workers, if it was memory). Images in work included: {', '.join(names)}"
    )


def write_failed(failed: dict[str, str], store: Store, part: tuple[int, int] | None = None) -> None:
    """``failed.txt``: key, TAB, reason; no file where nothing failed. Of a part: ``failed-0-of-16.txt``, replaced by that of the whole."""
    path = store.root / (FAILED_NAME if part is None else f"failed-{part[0]}-of-{part[1]}.txt")
    if failed:
        text = "".join(f"{key}\t{reason}\n" for key, reason in sorted(failed.items()))
        write_bytes_atomically(path, text.encode("utf-8", "surrogateescape"))
    else:
        path.unlink(missing_ok=True)
    for old in store.root.glob("failed-*-of-*.txt") if part is None else ():
        old.unlink(missing_ok=True)


def read_failed(root: Path) -> dict[str, str]:
    """Key -> reason of the images that the last run, or the runs of the parts, could not do."""
    failed = {}
    for path in [root / FAILED_NAME, *sorted(root.glob("failed-*-of-*.txt"))]:
        if path.exists():
            lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
            failed |= dict(line.split("\t", 1) for line in lines if "\t" in line)
    return failed


def _add_statistics(summary: Summary, keys: list[str], generator: RegionGenerator, store: Store) -> None:
    if not keys:
        return
    maps = [store.read(keys[index]) for index in np.unique(np.linspace(0, len(keys) - 1, _SAMPLE).astype(int))]
    summary.median_regions = float(np.median([len(np.unique(label_map)) for label_map in maps]))
    height, width = np.median([label_map.shape for label_map in maps], axis=0).astype(int)
    options = generator.advice(height, width)
    if summary.median_regions < _FEW_REGIONS and options:
        summary.advice = (
            f"the median image has fewer than {_FEW_REGIONS} regions, so there is little to contrast within it; "
            f"for images of {width}x{height} try {options} (in a new folder)"
        )
