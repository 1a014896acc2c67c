"""The table of the evidence tells what ran and nothing else."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from detcon_d2.quickstart.experiment import WORLDS, Score, arm_order, gain, mean_and_spread, table_lines, write_table
from detcon_d2.quickstart.runs import ROWS, World
from detcon_d2.quickstart.shapes import ShapesConfig
from tests.conftest import REPO


def write_results(folder: Path, box: float, mask: float) -> None:
    (folder / "finetune").mkdir(parents=True)
    (folder / "finetune/results.json").write_text(json.dumps({"results": {"val": {"bbox": {"AP": box}, "segm": {"AP": mask}}}}))


def test_the_main_comparison_runs_first_and_the_hard_world_last():
    arms = arm_order(["hard", "easy"], [row.name for row in ROWS.values() if not row.optional], [0, 1])
    assert len(arms) == 2 * (5 + 3) == len(set(arms))
    assert arms[:4] == [("easy", row, 0) for row in ("random", "detcon_b", "detcon_s", "grid")]
    assert arms[8:10] == [("easy", "annotations", 0), ("easy", "annotations", 1)]
    assert {world for world, _, _ in arms[10:]} == {"hard"}


def test_the_hard_world_differs_in_the_agreement_only():
    easy, hard = WORLDS["easy"][0], WORLDS["hard"][0]
    assert (easy.agreement, hard.agreement) == (0.8, 0.0)
    assert easy.num_train == hard.num_train and easy.num_val == hard.num_val >= 300 and easy.num_unlabeled == hard.num_unlabeled


def test_gain_is_paired_by_seed():
    assert gain({0: 13.0, 1: 20.0, 2: 99.0}, {0: 10.0, 1: 12.0}) == "+5.5 (least +3.0)"
    assert gain({}, {0: 1.0}) == "-"


def test_spread_is_the_sample_standard_deviation():
    assert mean_and_spread({0: 1.0, 1: 3.0, 2: 5.0}) == "3.0 ± 2.0"
    assert mean_and_spread({0: 1.0}) == "1.0"


def test_a_row_without_results_says_so():
    scores = {"random": Score({0: 10.0}, {0: 8.0}), "grid": Score({}, {})}
    row = next(line for line in table_lines(ShapesConfig(), scores) if ROWS["grid"].title in line)
    assert "not run" in row and "| 0 |" in row


def test_the_table_holds_what_has_finished(tmp_path: Path):
    world = World(tmp_path / "easy", WORLDS["easy"][0])
    write_results(tmp_path / "easy/random-0", 10.0, 8.0)
    write_results(tmp_path / "easy/detcon_b-0", 16.5, 13.0)
    text = write_table(tmp_path, {"easy": world}, [0, 1])
    assert "16.5 | 13.0 | 16.5 | +6.5 (least +6.5) | +5.0 (least +5.0)" in text
    assert (tmp_path / "evidence.md").read_text() == text
    assert json.loads((tmp_path / "evidence.json").read_text())["easy"]["detcon_b"] == {"box": {"0": 16.5}, "mask": {"0": 13.0}}


def test_optional_rows_are_in_the_table_once_they_have_run(tmp_path: Path):
    world = World(tmp_path / "easy", WORLDS["easy"][0])
    write_results(tmp_path / "easy/random-0", 10.0, 8.0)
    title = ROWS["detcon_b_kmeans"].title
    assert title not in write_table(tmp_path, {"easy": world}, [0])
    write_results(tmp_path / "easy/detcon_b_kmeans-0", 15.0, 12.0)
    assert f"{title} | 1 | 15.0" in write_table(tmp_path, {"easy": world}, [0])


def test_a_damaged_result_is_an_error_not_a_gap(tmp_path: Path):
    world = World(tmp_path / "easy", WORLDS["easy"][0])
    (tmp_path / "easy/random-0/finetune").mkdir(parents=True)
    (tmp_path / "easy/random-0/finetune/results.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        write_table(tmp_path, {"easy": world}, [0])


@pytest.mark.parametrize("separator", [["--"], []])
def test_config_options_follow_the_flags(monkeypatch, separator):
    flags = ["--seeds", "0", "1", "--epochs", "5"]
    monkeypatch.setattr(sys, "argv", ["evidence.py", *flags, *separator, "SOLVER.AMP.ENABLED", "False"])
    args = runpy.run_path(str(REPO / "tools/evidence.py"))["parse_args"]()
    assert (args.seeds, args.epochs, args.opts) == ([0, 1], 5, ["SOLVER.AMP.ENABLED", "False"])
