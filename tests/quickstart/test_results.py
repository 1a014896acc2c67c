"""Figures of a run are read as they were written last, whatever happened to the run."""

import json
from pathlib import Path

import pytest

from detcon_d2.io.charts import thin
from detcon_d2.quickstart.results import read_series


def write(path: Path, *rows: dict, tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def test_a_resumed_run_gives_each_iteration_once_with_the_value_written_last(tmp_path):
    first = [{"iteration": i, "loss": float(i)} for i in (0, 10, 20, 30)]
    again = [{"iteration": i, "loss": i + 0.5} for i in (20, 30, 40)]
    series = read_series(write(tmp_path / "metrics.json", *first, *again))
    assert series["loss"] == [(0, 0.0), (10, 10.0), (20, 20.5), (30, 30.5), (40, 40.5)]


def test_a_line_that_a_kill_cut_short_is_skipped_wherever_it_is(tmp_path):
    path = write(tmp_path / "metrics.json", {"iteration": 0, "loss": 1.0}, tail='{"iteration": 1, "lo')
    path.write_text(path.read_text() + '{"iteration": 1, "loss": 2.0}\n{"iteration": 2, "loss": 3.0}\n{"itera')
    assert read_series(path)["loss"] == [(0, 1.0), (2, 3.0)]


def test_figures_that_are_no_finite_numbers_are_left_out(tmp_path):
    rows = [{"iteration": 0, "AP": float("nan"), "name": "x", "loss": 1}, {"iteration": 1, "AP": 2.0, "loss": float("inf")}, {"loss": 3.0}]
    assert read_series(write(tmp_path / "metrics.json", *rows)) == {"loss": [(0, 1.0)], "AP": [(1, 2.0)]}


def test_a_file_without_figures_is_refused_by_name(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("nothing\n[1]\n")
    with pytest.raises(ValueError, match=r"metrics\.json: found no line with figures; expected JSON lines"):
        read_series(path)


def test_thinning_keeps_the_mean_and_the_last_iteration():
    points = [(i, float(i)) for i in range(100)]
    thinned = thin(points, 10)
    assert len(thinned) == 10
    assert thinned[-1][0] == 99
    assert sum(value for _, value in thinned) / 10 == pytest.approx(49.5)


def test_few_points_stay_as_they_are():
    assert thin([(0, 1.0), (5, 2.0)], 2) == [(0, 1.0), (5, 2.0)]
