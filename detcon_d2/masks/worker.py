"""Processes that work on images in parallel, and what they do to make the label maps of one image."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice

import cv2
import numpy as np

from detcon_d2.io.images import read_image
from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.store.png_folder import LabelMapStore

# There is one worker per core, so libraries must not start threads of their own. They read these variables when a process starts.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Small, so that Ctrl-C and a killed worker cost little; sending a chunk takes less than a millisecond.
_CHUNK = 4

_function: Callable[[dict], object]


def map_records(function: Callable[[dict], object], records: Iterable[dict], workers: int) -> Iterator[object]:
    """``function(record)`` of all records, in their order.

    Args:
        function: pickled once to each worker.
        records: with "file_name".
        workers: processes; 1 works in this one.

    Raises:
        RuntimeError: a worker process was killed; names the images it may have been working on.
        Exception: whatever ``function`` raises.
    """
    yield from (map(function, records) if workers <= 1 else _map_in_processes(function, iter(records), workers))


def _map_in_processes(function: Callable[[dict], object], records: Iterator[dict], workers: int) -> Iterator[object]:
    running: deque[tuple[Future, list[dict]]] = deque()
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
            names = [record["file_name"] for _, chunk in islice(running, 4) for record in chunk]
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
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def process_image(record: dict, generator: RegionGenerator, store: LabelMapStore) -> tuple[str, str | None]:
    """Make and store the label maps of one image.

    Args:
        record: dataset dict with "file_name" and "key".
        generator: makes the regions.
        store: where the label maps go.

    Returns:
        The key, and None or why this image could not be used. An OSError, such as a full disk, concerns all images and is raised.
    """
    try:
        image = read_image(record["file_name"])
        label_map = generator(image, image_rng(record["key"]), record)
        if label_map.shape[-2:] != image.shape[:2]:
            raise ValueError(f"found a label map of {label_map.shape[-2:]} (height, width); expected that of the image, {image.shape[:2]}")
    except (ValueError, MemoryError) as error:
        return record["key"], " ".join((getattr(error, "reason", None) or f"{type(error).__name__}: {error}").split())
    store.write(record["key"], label_map)
    return record["key"], None


def image_rng(key: str) -> np.random.Generator:
    """Randomness that belongs to an image, in whichever process and run it is processed."""
    return np.random.default_rng(np.frombuffer(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), np.uint32))
