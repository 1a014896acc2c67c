"""The table of the experiment contains the runs that have finished, and nothing else."""

import json
from pathlib import Path

import pytest

from detcon_d2.quickstart import evidence
from detcon_d2.quickstart.evidence import DATA_SETS, parse_args, run_experiment, run_order, write_table
from detcon_d2.quickstart.runs import METHODS, DataSet, Training

TRAININGS = [Training(seed, 1.0, 10) for seed in (0, 1)]


def write_results(folder: Path, box: float, mask: float) -> None:
    (folder / "finetune").mkdir(parents=True)
    results = {"val": {"bbox": {"AP": box}, "segm": {"AP": mask}}}
    (folder / "finetune/results.json").write_text(json.dumps({"backend": "subset", "iteration": 10, "results": results}))


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    write_results(tmp_path / "easy/random-0", 10.0, 8.0)
    return DataSet(tmp_path / "easy", DATA_SETS["easy"][0])


def test_the_main_comparison_runs_first_and_the_hard_data_set_last():
    order = run_order(["hard", "easy"], [method.name for method in METHODS.values() if not method.optional], TRAININGS)
    names = [(name, method, training.seed) for name, method, training in order]
    assert len(names) == 2 * (5 + 3) == len(set(names))
    assert names[:4] == [("easy", method, 0) for method in ("random", "detcon_b", "detcon_s", "grid")]
    assert names[8:10] == [("easy", "annotations", 0), ("easy", "annotations", 1)]
    assert {name for name, _, _ in names[10:]} == {"hard"}


def test_the_table_contains_what_has_finished(tmp_path, data_set):
    write_results(tmp_path / "easy/detcon_b-0", 16.5, 13.0)
    text = write_table(tmp_path, {"easy": data_set}, [0, 1])
    title = METHODS["detcon_b_kmeans"].title  # an optional method
    assert title not in text
    assert f"| {METHODS['detcon_b'].title} | 1 | 16.5 | 13.0 | 16.5 | +6.5 | +5.0 |" in text
    assert f"| {METHODS['grid'].title} | 0 | - | - | not run | - | - |" in text
    assert (tmp_path / "evidence.md").read_text() == text
    assert json.loads((tmp_path / "evidence.json").read_text())["easy"]["detcon_b"] == {"box": {"0": 16.5}, "mask": {"0": 13.0}}
    write_results(tmp_path / "easy/detcon_b_kmeans-0", 15.0, 12.0)
    assert f"{title} | 1 | 15.0" in write_table(tmp_path, {"easy": data_set}, [0])


def test_label_maps_come_first_and_the_table_is_written_after_each_run(tmp_path, data_set, monkeypatch, capsys):
    ran = []

    def run(chains, jobs=1, on_finished=None):
        ran.append(list(chains))
        if on_finished:
            write_results(tmp_path / "easy/detcon_b-0", 16.5, 13.0)
            on_finished("easy/detcon_b-0")
            assert "16.5" in (tmp_path / "evidence.md").read_text()

    monkeypatch.setattr(evidence, "run_chains", run)
    monkeypatch.setattr(DataSet, "generate", lambda self: ran.append("images"))
    text = run_experiment(tmp_path, ["easy"], ["random", "detcon_b"], TRAININGS[:1], jobs=2)
    assert ran == ["images", ["easy/fh"], ["easy/random-0", "easy/detcon_b-0"]]
    assert "== easy/detcon_b-0 finished: 1 of 2" in capsys.readouterr().out and "16.5" in text


@pytest.mark.parametrize("separator", [["--"], []])
@pytest.mark.parametrize("names", [("--worlds", "--rows"), ("--data-sets", "--methods")])
def test_config_options_follow_the_flags_and_older_names_work(names, separator):
    flags = ["--seeds", "0", "1", "--epochs", "5", names[0], "easy", names[1], "random", "grid"]
    args = parse_args([*flags, *separator, "SOLVER.AMP.ENABLED", "False"] if separator else flags)
    assert (args.seeds, args.epochs, args.data_sets, args.methods) == ([0, 1], 5, ["easy"], ["random", "grid"])
    assert args.opts == (["SOLVER.AMP.ENABLED", "False"] if separator else [])
