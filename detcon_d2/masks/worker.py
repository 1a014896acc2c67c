"""What runs in a worker process: images in, label maps on disk out."""

import hashlib
import os
import signal
import threading
from multiprocessing import parent_process

import cv2
import numpy as np

from detcon_d2.masks.reader import read_image
from detcon_d2.masks.region_generator import RegionGenerator
from detcon_d2.masks.storage import LabelMapStore

# One worker a core leaves no core for threads of their own; read by the libraries when a worker process starts.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

_job: tuple[RegionGenerator, LabelMapStore] | None = None


def start_worker(generator: RegionGenerator, store: LabelMapStore) -> None:
    """Initializer of a worker process: Ctrl-C is left to the parent, and the death of the parent ends the worker."""
    global _job
    _job = (generator, store)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    # Without this a worker would wait for ever for work from a parent that was killed.
    parent_process().join()
    os._exit(1)


def process_chunk(records: list[dict]) -> list[tuple[str, str | None]]:
    """Make the label maps of some images; returns (key, reason of failure or None) for each."""
    return [(record["key"], process_image(record, *_job)) for record in records]


def process_image(record: dict, generator: RegionGenerator, store: LabelMapStore) -> str | None:
    """Make and store one label map.

    Args:
        record: dataset dict with "file_name" and "key".
        generator: makes the regions.
        store: takes them.

    Returns:
        None, or why this image could not be done. What concerns all images (a full disk, a read-only folder) is raised as OSError.
    """
    try:
        label_map = generator(read_image(record["file_name"]), image_rng(record["key"]), record)
    except (ValueError, MemoryError) as error:
        return getattr(error, "reason", None) or f"{type(error).__name__}: {error}"
    store.write(record["key"], label_map)
    return None


def image_rng(key: str) -> np.random.Generator:
    """Randomness that belongs to an image, whichever process and run it falls into."""
    return np.random.default_rng(np.frombuffer(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), np.uint32))
