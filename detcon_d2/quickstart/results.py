"""What runs leave behind: the scalars of training, the metrics of the evaluation and the predictions, read from their files."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

Points = list[tuple[int, float]]
"""(iteration, value) pairs in the order of iterations."""


def read_series(path: Path) -> dict[str, Points]:
    """Every finite scalar of a ``metrics.json``, as (iteration, value) pairs by its name; each iteration once, in order.

    A resumed run writes some iterations again: the last line counts. Lines that were cut short when a run was killed are skipped. Raises
    ValueError if no line can be read.
    """
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            scalars = json.loads(line)
            iteration = int(scalars.pop("iteration"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        for name, value in scalars.items():
            if isinstance(value, int | float) and math.isfinite(value):
                values[name][iteration] = float(value)
    if not values:
        raise ValueError(f"{path}: found no line with metrics; expected JSON lines with an iteration each, as training writes them.")
    return {name: sorted(points.items()) for name, points in values.items()}


class Evaluation(NamedTuple):
    """Metrics of a detector in percent: ``{"bbox": {"AP": ..., "AP50": ..., "AP-disc": ...}, "segm": ...}``.

    They are those of Detectron2's COCO evaluator, of this backend, after this iteration of fine-tuning, on the data set of this name.
    """

    backend: str
    iteration: int
    data_set: str
    metrics: dict[str, dict[str, float | None]]

    def ap(self, task: str, metric: str = "AP") -> float:
        """One metric of "bbox" or "segm"; NaN where the evaluation has none."""
        value = self.metrics.get(task, {}).get(metric)
        return float("nan") if value is None else float(value)


def read_evaluation(finetune: Path) -> Evaluation:
    """The ``results.json`` of a fine-tuning's output folder. Raises ValueError unless it evaluates exactly one data set, with box AP."""
    path = finetune / "results.json"
    with _explain(path, '{"backend", "iteration", "results": {one data set: {"bbox": {"AP", ...}, "segm": {...}}}}'):
        content = json.loads(path.read_text(encoding="utf-8"))
        ((data_set, metrics),) = content["results"].items()
        return Evaluation(content["backend"], int(content["iteration"]), data_set, {**metrics, "bbox": metrics["bbox"]})


def read_predictions(path: Path) -> dict[int | str, list[dict]]:
    """COCO results by image id. Raises ValueError if the file is not a list of COCO results with masks."""
    by_image = defaultdict(list)
    with _explain(path, "a list of COCO results with bbox, score and segmentation"):
        for prediction in json.loads(path.read_text(encoding="utf-8")):
            if missing := {"category_id", "bbox", "score", "segmentation"} - prediction.keys():
                raise KeyError(f"a prediction lacks {', '.join(sorted(missing))}")
            by_image[prediction["image_id"]].append(prediction)
    return by_image


@contextmanager
def _explain(path: Path, expected: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {type(error).__name__} {error}; expected {expected}, as tools/train_net.py writes it.") from error
