"""The work of a worker process, mapped by Ray Data over the machines of a cluster (optional: pip install "ray[data]")."""

import pickle
from collections.abc import Iterator

import cv2

from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.store.storage import Store
from detcon_d2.masks.worker import process_image

# Tasks that a worker gets at once.
_BLOCK = 16


def process_with_ray(tasks: list[dict], generator: RegionGenerator, store: Store, workers: int) -> Iterator[tuple[str, str | None]]:
    """Make and store label maps on a Ray cluster: the one that RAY_ADDRESS names or that runs here, else one started on this machine.

    Args:
        tasks: records of the images.
        generator: makes the regions.
        store: takes them; every machine writes to it under the same path.
        workers: processes in all, one core each.

    Yields:
        (key, reason of failure or None) of each image when it is done.

    Raises:
        ValueError: Ray is not installed.
        OSError: a worker could not write, as in a run of processes.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(f'engine ray: {error}; expected Ray: pip install "ray[data]", or leave out --engine ray') from error
    if not tasks:
        return
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    # Blocks are cut here: a task that does it might wait for ever for a core that the workers hold.
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    results = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // _BLOCK)).map(
        _Worker, fn_constructor_args=(generator, store), concurrency=(1, max(1, workers)), num_cpus=1
    )
    for row in results.iter_rows():
        key, reason, error = pickle.loads(row["result"])
        if error is not None:
            raise error
        yield key, reason


class _Worker:
    """An actor of Ray: what a worker process is elsewhere."""

    def __init__(self, generator: RegionGenerator, store: Store) -> None:
        cv2.setNumThreads(1)
        self._job = (generator, store)

    def __call__(self, row: dict) -> dict:
        task, reason, stop = pickle.loads(row["task"]), None, None
        try:
            reason = process_image(task, *self._job)
        except OSError as error:
            # Raised here it would arrive as text of Ray's.
            stop = error
        # Pickled: a column of texts and Nones would change its type with the block.
        return {"result": pickle.dumps((task["key"], reason, stop))}
