"""Work on images in parallel on the machines of a cluster, through Ray Data (optional: pip install "ray[data]")."""

import pickle
from collections.abc import Callable, Iterator

import cv2

# Records that a worker gets at once.
_BLOCK = 16


def map_with_ray(function: Callable[[dict], object], records: list[dict], workers: int) -> Iterator[object]:
    """``function(record)`` of all records, on the Ray cluster that RAY_ADDRESS names or that runs here, else on one started here.

    Args:
        function: pickled to the workers; the paths that it uses must exist on every machine.
        records: pickled one by one.
        workers: processes in total, one core each.

    Raises:
        ValueError: Ray is not installed.
        OSError: as ``function`` raises it.
    """
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
        _Worker, fn_constructor_args=(function,), concurrency=(1, max(1, workers)), num_cpus=1
    )
    for row in results.iter_rows():
        result, error = pickle.loads(row["result"])
        if error is not None:
            raise error
        yield result


class _Worker:
    """A Ray actor, which corresponds to a worker process."""

    def __init__(self, function: Callable[[dict], object]) -> None:
        cv2.setNumThreads(1)
        self._function = function

    def __call__(self, row: dict) -> dict:
        result, stop = None, None
        try:
            result = self._function(pickle.loads(row["record"]))
        except OSError as error:
            stop = error  # raised here, it would arrive as a text of Ray's
        # Pickled: Ray would derive the type of a column of texts and Nones from each block.
        return {"result": pickle.dumps((result, stop))}
