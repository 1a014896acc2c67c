"""The results of a run are read as they were written last, whatever happened to the run."""

import json
from pathlib import Path

import pytest

from detcon_d2.quickstart.results import read_evaluation, read_predictions, read_series


def write(path: Path, *rows: dict, tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def test_a_resumed_run_gives_each_iteration_once_with_the_value_written_last(tmp_path):
    first = [{"iteration": i, "loss": float(i)} for i in (0, 10, 20, 30)]
    again = [{"iteration": i, "loss": i + 0.5} for i in (20, 30, 40)]
    series = read_series(write(tmp_path / "metrics.json", *first, *again))
    assert series["loss"] == [(0, 0.0), (10, 10.0), (20, 20.5), (30, 30.5), (40, 40.5)]


def test_lines_that_were_cut_short_and_values_that_are_no_finite_numbers_are_skipped(tmp_path):
    rows = [{"iteration": 0, "AP": float("nan"), "name": "x", "loss": 1}, {"loss": 7.0}, {"iteration": 1, "AP": 2.0, "loss": float("inf")}]
    tail = '{"iteration": 2, "lo{"iteration": 2, "loss": 8.0}\n{"iteration": 3, "loss": 3.0}\n{"ite'
    path = write(tmp_path / "metrics.json", *rows, tail=tail)
    assert read_series(path) == {"loss": [(0, 1.0), (3, 3.0)], "AP": [(1, 2.0)]}


RESULTS, PREDICTIONS = "expected .*bbox", "expected a list of COCO results"
DAMAGED = [
    ("metrics.json", "nothing\n[1]\n", "found no line with metrics; expected JSON lines"),
    ("results.json", "{", RESULTS),
    ("results.json", "[]", RESULTS),
    ("results.json", '{"results": {}}', RESULTS),
    ("results.json", '{"backend": "b", "iteration": 1, "results": {"a": {"segm": {}}}}', RESULTS),
    ("results.json", '{"results": {"a": {"bbox": {}}, "b": {"bbox": {}}}}', "too many.*one data set"),
    ("predictions.json", "{", PREDICTIONS),
    ("predictions.json", '{"a": 1}', PREDICTIONS),
    ("predictions.json", '[{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 1}]', PREDICTIONS),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED)
def test_a_damaged_file_is_refused_by_name(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    read = {"metrics.json": read_series, "results.json": lambda path: read_evaluation(path.parent), "predictions.json": read_predictions}
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        read[name](tmp_path / name)
