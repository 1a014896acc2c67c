"""What runs in a worker process: images in, label maps on disk out."""

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process

import cv2
import numpy as np

from detcon_d2.io.images import read_image
from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.store.storage import Store

# One worker a core leaves no core for threads of their own; read by the libraries when a worker process starts.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

_job: tuple[RegionGenerator, Store] | None = None


def start_worker(generator: RegionGenerator, store: Store) -> None:
    """Initializer of a worker process that makes label maps."""
    global _job
    _job = (generator, store)
    obey_parent()


def obey_parent() -> None:
    """To call in a new worker process: Ctrl-C is left to the parent, the death of the parent ends the worker, OpenCV has one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started inside see one thread a library; the variables of this process are put back afterwards."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _die_with_parent() -> None:
    # Without this a worker would wait for ever for work from a parent that was killed.
    parent_process().join()
    os._exit(1)


def process_chunk(records: list[dict]) -> list[tuple[str, str | None]]:
    """Make the label maps of some images; returns (key, reason of failure or None) for each."""
    return [(record["key"], process_image(record, *_job)) for record in records]


def process_image(record: dict, generator: RegionGenerator, store: Store) -> str | None:
    """Make and store one label map.

    Args:
        record: dataset dict with "file_name" and "key".
        generator: makes the regions.
        store: takes them.

    Returns:
        None, or why this image could not be done. What concerns all images (a full disk, a read-only folder) is raised as OSError.
    """
    try:
        image = read_image(record["file_name"])
        label_map = generator(image, image_rng(record["key"]), record)
        if label_map.shape[-2:] != image.shape[:2]:
            raise ValueError(f"found a label map of {label_map.shape[-2:]} (height, width); expected that of the image, {image.shape[:2]}")
    except (ValueError, MemoryError) as error:
        return " ".join((getattr(error, "reason", None) or f"{type(error).__name__}: {error}").split())
    store.write(record["key"], label_map)
    return None


def image_rng(key: str) -> np.random.Generator:
    """Randomness that belongs to an image, whichever process and run it falls into."""
    return np.random.default_rng(np.frombuffer(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), np.uint32))
