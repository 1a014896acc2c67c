"""An experiment runs every part once, chooses on the validation images, and its table contains what has finished."""

import json
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from detcon_d2.cli.evaluate_encoder import parse_args
from detcon_d2.engine.setup import load_config
from detcon_d2.experiment import command as experiment_command
from detcon_d2.experiment import report
from detcon_d2.experiment.command import main, run_experiment
from detcon_d2.experiment.plan import read_plan
from detcon_d2.experiment.report import markdown, read_rows
from detcon_d2.experiment.runs import Experiment, open_experiment
from detcon_d2.io.annotated.read import read_annotated
from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.quickstart.commands import Command
from tests.experiment.test_plan import plan_file

SWEEP = {"SOLVER.BASE_LR": [1e-3, 2e-3, 4e-3]}


class Runner:
    """In place of ``run_chains``: writes what the commands would, with box AP by a function of the method, the seed and the rate."""

    def __init__(self, box_ap, fails: str = "nothing"):
        self.box_ap, self.ran, self.fails = box_ap, [], fails

    def __call__(self, chains, jobs=1, on_finished=None):
        failed = False
        for name, chain in chains.items():
            if any(self.fails in command.title for command in chain):
                failed = True
                continue
            for command in chain:
                if not command.is_finished():
                    self.run(command)
            if on_finished is not None:
                on_finished(name)
        if failed:
            raise subprocess.CalledProcessError(1, "train_net")

    def run(self, command: Command) -> None:
        self.ran.append(command)
        words = dict(zip(command.words[3::2], command.words[4::2])) if "--resume" not in command.words else options(command)
        if command.product.name == "results.json":
            box = self.box_ap(Path(command.product), words)
            tasks = {"bbox": {"AP": box, "AP50": 2 * box, "AP75": box / 2}, "segm": {"AP": box - 1}}
            content = json.dumps({"backend": "subset", "iteration": 1, "results": {"test": tasks}})
        elif command.product.name == "metrics.json":
            content = json.dumps({"iteration": 11, "time": 2.0 if "/detcon/" in str(command.product) else 4.0})
            command.product.parent.mkdir(parents=True)
            command.product.with_name("model_final.pth").write_text("weights after twelve iterations")
        elif command.product.name == "evaluation.json":
            content = json.dumps({"knn": [{"k": 20, "top1": 30.0 + len(command.words)}]})
        else:
            content = "made"
        if command.product.suffix:
            command.product.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(command.product, content.encode())
        else:
            command.product.mkdir(parents=True)
        command.record.parent.mkdir(parents=True, exist_ok=True)
        command.record.write_text(json.dumps({"command": list(command.words), "seconds": 1.0}))


def options(command: Command) -> dict[str, str]:
    words = command.words[command.words.index("--resume") + 1 :]
    return dict(zip(words[::2], words[1::2], strict=True))


def by_method(path: Path, words: dict[str, str]) -> float:
    seed, rate = int(words["SEED"]), float(words.get("SOLVER.BASE_LR", 0))
    return (20 if "/detcon/" in str(path) else 10) + seed + (5 if rate == 0.002 else 0)


@pytest.fixture
def run(monkeypatch):
    """Runs a plan by a :class:`Runner`, which is returned, with the experiment and the table."""
    monkeypatch.setattr(report, "read_metadata", lambda path: {"seconds": 60.0})
    report._metadata.cache_clear()

    def start(path: Path, box_ap=by_method, fails: str = "nothing") -> tuple[Runner, Experiment, str]:
        runner, experiment = Runner(box_ap, fails), open_experiment(read_plan(path))
        monkeypatch.setattr(experiment_command, "run_chains", runner)
        return runner, experiment, run_experiment(experiment, jobs=2)

    return start


def test_each_part_runs_once_in_order_and_a_second_call_runs_nothing(tmp_path, run):
    path = plan_file(tmp_path, fractions=[0.5, 1.0])
    runner, _, text = run(path)
    titles = [command.title.partition(":")[0].partition(" from")[0] for command in runner.ran]
    a_seed = ["pretraining", "conversion to a Detectron2 backbone", *["detector"] * 4]
    assert titles == ["label maps", *a_seed, *a_seed]
    again, _, same = run(path)
    assert not again.ran and same == text


def test_the_words_are_those_of_configs_that_exist(tmp_path, run):
    runner, _, _ = run(plan_file(tmp_path, sweep=SWEEP, validation=0.34))
    assert len(runner.ran) == 1 + 2 * 2 + 2 * 3 + 2 * 2
    for command in runner.ran:
        if "--resume" in command.words:
            words = command.words
            cfg = load_config(words[2], list(words[words.index("--resume") + 1 :]))
            assert cfg.OUTPUT_DIR and Path(cfg.OUTPUT_DIR).is_relative_to(tmp_path)
    pretrain = options(next(one for one in runner.ran if one.title.startswith("pretraining")))
    assert (pretrain["SOLVER.MAX_ITER"], float(pretrain["DETCON.SOLVER.EPOCHS"])) == ("2", 0)  # 130 images seen, 64 in a batch
    assert pretrain["SEED"] == "3"  # the method's own options come last


def test_every_method_takes_the_rate_that_is_best_on_the_validation_images_and_the_test_set_chooses_nothing(tmp_path, run):
    def box_ap(path: Path, words: dict[str, str]) -> float:
        rate = float(words["SOLVER.BASE_LR"])
        if "/sweep-" in str(path):
            return {0.001: 1.0, 0.002: 2.0, 0.004: 3.0}[rate] if "/detcon/" in str(path) else 3 - 500 * rate
        return 100 * rate  # on the test set the largest rate would win for both

    runner, experiment, text = run(plan_file(tmp_path, sweep=SWEEP, validation=0.34), box_ap)
    final = [command for command in runner.ran if "/detector-" in str(command.product)]
    rates = {(command.title.split()[2].strip(","), options(command)["SOLVER.BASE_LR"]) for command in final}
    assert rates == {("random", "0.001"), ("detcon", "0.004")}
    assert "- detcon, 130 images seen, 100% of the labels: SOLVER.BASE_LR 0.004 (1.0, 2.0, 3.0)" in text
    train, validation = (read_annotated(spec) for spec in experiment.labels)
    whole = {record["file_name"] for record in read_annotated(experiment.plan.train).records}
    parts = [{record["file_name"] for record in data.records} for data in (train, validation)]
    assert parts[0] | parts[1] == whole and not parts[0] & parts[1] and all(parts)
    sweep = [command for command in runner.ran if "/sweep-" in str(command.product)]
    assert {options(command)["DATASETS.TEST"] for command in sweep} == {repr((experiment.labels.validation,))}


def test_the_table_has_gains_over_each_baseline_and_the_page_is_well_formed(tmp_path, run):
    _, experiment, text = run(plan_file(tmp_path, baselines=["random"], budgets=[130, 260], fractions=[0.5, 1.0]))
    assert "| detcon | 256 | 60 | 50% | 2 | 20.5 ± 0.7 | 19.5 ± 0.7 | 41.0 ± 1.4 | 10.2 ± 0.4 | +10.0 [+10.0, +10.0] |" in text
    assert "| random |  |  | 100% | 2 | 10.5 ± 0.7 |" in text
    page = (experiment.plan.output / "experiment.html").read_text()
    root = ElementTree.fromstring(page.replace("<!DOCTYPE html>", "").replace("&nbsp;", " "))
    headings = [element.text for element in root.iter("h2")]
    assert "AP over images seen" in headings and "AP over labels" in headings
    spoken = [element.get("alt") for element in root.iter("img")]
    assert spoken[0].startswith("random, 50% of the labels 10.5, ") and "detcon, 260 images seen, 100% of the labels 20.5" in spoken[0]
    assert (experiment.plan.output / "experiment.md").read_text() in text
    rows = json.loads((experiment.plan.output / "experiment.json").read_text())
    assert len(rows) == 2 * (1 + 2) and rows[-1]["seeds"]["1"]["bbox"]["AP"] == 21
    assert rows[-1]["box_ap_above"] == {"random": "yes"} and rows[0]["box_ap_above"] == {}


@pytest.mark.parametrize(
    "fails",
    [
        "pretraining: detcon, 130 images seen, seed 0",
        "detector from detcon, 130 images seen, 100% of the labels, seed 0 SOLVER.BASE_LR 0.002",
    ],
)
def test_a_run_that_fails_ends_only_what_needs_it(tmp_path, run, fails):
    path = plan_file(tmp_path, sweep=SWEEP, validation=0.34)
    with pytest.raises(subprocess.CalledProcessError):
        run(path, fails=fails)
    rows = read_rows(open_experiment(read_plan(path)))
    assert [(row.setting.method.name, list(row.runs)) for row in rows] == [("random", [0, 1])]
    runner, _, text = run(path)
    assert "| detcon | 128 |" in text and not any("detector from random" in command.title for command in runner.ran)


def test_what_has_not_finished_is_not_in_the_table(tmp_path):
    experiment = open_experiment(read_plan(plan_file(tmp_path)))
    runner = Runner(by_method)
    runner.run(experiment.fine_tuning(experiment.settings()[0], 1))
    rows = read_rows(experiment)
    assert [(row.setting.method.name, list(row.runs)) for row in rows] == [("random", [1])]
    assert "| random |  |  | 100% | 1 | 11.0 |" in markdown(rows, ["random"])


def test_weights_of_another_program_are_a_row_without_pretraining(tmp_path, run):
    methods = {"random": {}, "peer": {"weights": str(tmp_path / "peer_{seed}.pth")}}
    path = plan_file(tmp_path, methods=methods)
    with pytest.raises(ValueError, match=r"there is no file .*peer_0\.pth"):
        open_experiment(read_plan(path))
    for seed in (0, 1):
        (tmp_path / f"peer_{seed}.pth").write_bytes(b"")
    runner, _, text = run(path)
    assert [options(command)["MODEL.WEIGHTS"] for command in runner.ran[1::2]] == [str(tmp_path / f"peer_{seed}.pth") for seed in (0, 1)]
    assert "| peer |" in text


def test_methods_with_other_images_have_label_maps_of_their_own(tmp_path):
    config = "quickstart/detcon_s_R_18.yaml"
    (tmp_path / "more").mkdir()
    methods = {name: {"config": config, "regions": "fh"} for name in ("one", "two", "three")}
    path = plan_file(tmp_path, methods=methods | {"three": methods["three"] | {"images": f"folder:{tmp_path}"}})
    experiment = open_experiment(read_plan(path))
    assert [command.product.name for command in experiment.label_maps()] == ["fh", "fh-three"]


def test_equal_seconds_are_as_many_iterations_as_the_calibration_of_each_method_says(tmp_path, run, monkeypatch, capsys):
    config = "quickstart/detcon_s_R_18.yaml"
    methods = {"random": {}, "detcon": {"config": config, "regions": "fh"}, "slow": {"config": config, "regions": "fh"}}
    path = plan_file(tmp_path, budgets=None, seconds=[9], seeds=[0], methods=methods)
    monkeypatch.setattr(experiment_command, "run_chains", lambda *_: pytest.fail("nothing runs"))
    assert main([str(path), "--dry-run"]) is None and "iterations the calibrations decide" in capsys.readouterr().out
    runner, experiment, text = run(path)
    assert [command.title for command in runner.ran[1:3]] == ["calibration: detcon", "calibration: slow"]
    assert not any(command.product.with_name("model_final.pth").exists() for command in runner.ran[1:3])
    lengths = [options(command)["SOLVER.MAX_ITER"] for command in runner.ran if command.title.startswith("pretraining")]
    assert lengths == ["4", "2"]  # 9 seconds, of 2 and 4 an iteration
    assert [row.images for row in read_rows(experiment)] == [0, 256, 128]
    assert "| detcon | 256 |" in text


def test_knn_runs_once_for_each_encoder_and_is_a_column(tmp_path, run):
    spec = f"folder:{tmp_path}"
    path = plan_file(tmp_path, knn={"train": spec, "test": spec, "size": 65}, fractions=[0.5, 1.0], seeds=[0])
    runner, _, text = run(path)
    found = [command for command in runner.ran if command.title.startswith("kNN")]
    assert [command.title for command in found] == ["kNN: random, seed 0", "kNN: detcon, 130 images seen, seed 0"]
    random, detcon = (command.words for command in found)
    assert random[1] == "random" and random[-3:] == ("--seed", "0", "--protocol") and detcon[1].endswith("seed_0/pretrain/model_final.pth")
    for words in (random, detcon):
        assert parse_args(list(words[1:])).protocols == []
    assert "kNN top-1" in text and "| 43.0 |" in text and "| 39.0 |" in text


def test_a_dry_run_prints_the_commands_and_starts_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment_command, "run_chains", lambda *_: pytest.fail("nothing runs"))
    assert main([str(plan_file(tmp_path)), "--dry-run"]) is None
    printed = capsys.readouterr().out
    assert printed.count("-m detcon_d2 train_net") == 2 + 4 and "-m detcon_d2 generate_masks" in printed


def test_mistakes_end_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="experiment: seeds: found"):
        main([str(plan_file(tmp_path, seeds=["a"]))])
    with pytest.raises(SystemExit, match="are too few to keep"):
        main([str(plan_file(tmp_path, sweep=SWEEP, validation=0.01))])
    methods = {"one": {"config": "quickstart/moco_R_18.yaml", "options": {"DETCON.MOCO.QUEUE": 65}}}
    with pytest.raises(SystemExit, match=r"methods: one: DETCON.MOCO.QUEUE is 65; expected a positive multiple"):
        main([str(plan_file(tmp_path, methods=methods))])
    with pytest.raises(SystemExit, match=r"budgets: found 63 \(of detcon\); expected at least a batch: 64"):
        main([str(plan_file(tmp_path, budgets=[63]))])
