"""Work on images in parallel, by processes of this machine or of a Ray cluster; the work of making the label maps of one image."""

import errno
import hashlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice

import cv2
import numpy as np

from detcon_d2.io.images import PLAIN, Reading
from detcon_d2.io.names import printable
from detcon_d2.io.tiles import label_map_of, pixels_of, read_record, record_name, tile_record, whole_record
from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.store.png_folder import LabelMapStore

# There is one worker per core, so libraries must not start threads of their own. They read these variables when a process starts.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Small, so that Ctrl-C and a killed worker cost little; sending a chunk takes less than a millisecond.
_CHUNK = 4
# Records that a Ray worker gets at once.
_BLOCK = 16
# Of names that the file system of the label maps cannot hold.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ)

_function: Callable[[dict], object]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_records(function: Callable[[dict], object], records: Iterable[dict], workers: int) -> Iterator[object]:
    """``function(record)`` of all records (with "file_name"), in their order; ``workers``: processes, 1 works in this one. The function
    is pickled once to each worker. Raises what it raises, and RuntimeError if a worker process was killed, with the images it may have been
    working on."""
    if workers <= 1:
        yield from map(function, records)
        return
    records, running = iter(records), deque()  # of (future, records)
    # spawn: forking a process that has threads (OpenCV, torch with a catalog name) can hang; the workers' imports are light.
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(workers, context, _start_worker, (function,)) as pool:
        try:
            while True:
                while len(running) < 4 * workers and (chunk := list(islice(records, _CHUNK))):
                    running.append((pool.submit(_work, chunk), chunk))
                if not running:
                    return
                yield from running[0][0].result()
                running.popleft()
        except BrokenProcessPool as error:
            names = [printable(record["file_name"]) for _, chunk in islice(running, 4) for record in chunk]
            raise RuntimeError(
                "a worker process was killed, most often because memory ran out; finished label maps are kept, and the same command "
                f"continues (with fewer --workers, if it was memory). Images in work included: {', '.join(names)}"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(function: Callable[[dict], object]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    cv2.setNumThreads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _work(chunk: list[dict]) -> list:
    return [_function(record) for record in chunk]


def _exit_with_parent() -> None:
    # Without this a worker would wait indefinitely for work from a parent that was killed.
    multiprocessing.parent_process().join()
    os._exit(1)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Libraries of processes that start inside use one thread; the variables of this process are restored afterwards."""
    before = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    os.environ |= dict.fromkeys(_THREAD_VARIABLES, "1")
    try:
        yield
    finally:
        for name in _THREAD_VARIABLES:
            os.environ.pop(name, None)
        os.environ |= before


def map_with_ray(function: Callable[[dict], object], records: list[dict], workers: int) -> Iterator[object]:
    """As :func:`map_records`, on the Ray cluster that RAY_ADDRESS names or that runs here, else on one started here; ``workers``: processes
    in total, one core each. The paths that the function uses must exist on every machine. Raises ValueError if Ray is not installed."""
    try:
        import ray
    except ImportError as error:
        raise ValueError(f'engine ray: {error}; expected Ray: pip install "ray[data]", or leave out --engine ray') from error
    if not records:
        return
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    # Blocks are cut here: a Ray task that cuts them could wait indefinitely for a core that the workers hold.
    rows = [{"record": pickle.dumps(record)} for record in records]
    results = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // _BLOCK)).map(
        _RayWorker, fn_constructor_args=(function,), concurrency=(1, max(1, workers)), num_cpus=1
    )
    for row in results.iter_rows():
        result, error = pickle.loads(row["result"])
        if error is not None:
            raise error
        yield result


class _RayWorker:
    """A Ray actor, which corresponds to a worker process."""

    def __init__(self, function: Callable[[dict], object]) -> None:
        cv2.setNumThreads(1)
        self._function = function

    def __call__(self, row: dict) -> dict:
        try:
            outcome = self._function(pickle.loads(row["record"])), None
        except OSError as error:
            outcome = None, error  # raised here, it would arrive as a text of Ray's
        # Pickled: Ray would derive the type of a column of texts and Nones from each block.
        return {"result": pickle.dumps(outcome)}


def process_image(record: dict, generator: RegionGenerator, store: LabelMapStore, reading: Reading = PLAIN) -> list[tuple[str, str | None]]:
    """Make and store the label maps of the image of a dataset dict ("file_name", "key"), or of the ``tiles`` in it, for which the image is
    decoded once.

    Returns for each label map its key, and None or why it could not be made; if the whole image could not be used, with the image's key. An
    OSError, such as a full disk, concerns all images and is raised, unless it is about the name of the file.
    """
    parts = [tile_record(record, tile) for tile in record.get("tiles", ())] or [record]
    try:
        image = read_record(record, reading)
        whole = regions_of(generator, image, record) if generator.of_whole_image else None
    except (ValueError, MemoryError) as error:
        return [(record["key"], _reason(error))] * len(parts)
    return [(part["key"], _process_part(part, generator, store, image, whole)) for part in parts]


def _process_part(
    record: dict, generator: RegionGenerator, store: LabelMapStore, image: np.ndarray, whole: np.ndarray | None
) -> str | None:
    try:
        label_map = regions_of(generator, image, record) if whole is None else label_map_of(record, whole)
    except (ValueError, MemoryError) as error:
        return _reason(error)
    try:
        store.write(record["key"], label_map)
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise
        return f"no file can have its name ({os.strerror(error.errno)}): rename it, or make tars with --format tar"
    return None


def _reason(error: Exception) -> str:
    return printable(" ".join((getattr(error, "reason", None) or f"{type(error).__name__}: {error}").split()))


def regions_of(source: Callable[..., np.ndarray], image: np.ndarray, record: dict) -> np.ndarray:
    """The label maps that a generator, or another source with its interface, has for a record: uint16 (h, w) or (layers, h, w).

    ``image``: uint8 (H, W, 3), the whole image, also for the record of a tile. Raises ValueError as the source, and for label maps of
    another size.
    """
    used = whole_record(record) if "tile" in record and source.of_whole_image else record
    pixels = pixels_of(used, image)
    label_map = source(pixels, image_rng(used["key"]), used)
    if label_map.shape[-2:] != pixels.shape[:2]:
        found, expected = (f"{shape[1]} x {shape[0]}" for shape in (label_map.shape[-2:], pixels.shape[:2]))
        raise ValueError(
            f"the label map of {used['key']} from {source} is {found} (width x height), but {record_name(used)} is {expected}; "
            "expected the same size: make the label maps of these images"
        )
    return label_map if used is record else label_map_of(record, label_map)


def image_rng(key: str) -> np.random.Generator:
    """Randomness that belongs to an image, in whichever process and run it is processed."""
    return np.random.default_rng(np.frombuffer(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), np.uint32))
