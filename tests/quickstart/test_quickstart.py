"""The quickstart's steps: in order, each once, with a clear end."""

import json
from pathlib import Path

import pytest

from detcon_d2.quickstart import quickstart
from detcon_d2.quickstart.quickstart import quickstart_steps, quickstart_training, read_ap, run_quickstart, summary
from detcon_d2.quickstart.runs import Training, World
from detcon_d2.quickstart.shapes import ShapesConfig, generate_shapes
from tests.conftest import REPO

TRAINING = Training(pretrain_epochs=2.0, finetune_iterations=100)


def write_results(output: Path) -> None:
    for arm, box in (("random", 10.0), ("detcon_b", 17.5)):
        folder = output / arm / "finetune"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"results": {"val": {"bbox": {"AP": box}, "segm": {"AP": box - 2}}}}))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, ShapesConfig())


def test_steps_go_from_masks_to_the_report_and_both_detectors_train_side_by_side(world: World) -> None:
    tools = [[chain.stages[0].command[0] for chain in chains] for _, chains in quickstart_steps(world, 0, TRAINING)]
    assert tools == [
        ["tools/generate_masks.py"],
        ["tools/visualize_views.py"],
        ["tools/train_net.py"],
        ["tools/train_net.py", "tools/train_net.py"],
        ["tools/report.py"],
    ]
    assert all((REPO / name).is_file() for step in tools for name in step)


def test_what_a_step_needs_is_what_an_earlier_one_makes(world: World) -> None:
    made: set[str] = set()
    for _, chains in quickstart_steps(world, 0, TRAINING):
        for chain in chains:
            for stage in chain.stages:
                inputs = [word for word in stage.command if word.startswith(str(world.folder)) and word != str(stage.product)]
                needed = [word for word in inputs if word.endswith((".pth", ".yaml"))]
                assert set(needed) <= made, stage.title
                made.add(str(stage.product))


def test_the_seed_reaches_every_training(world: World) -> None:
    commands = [stage.command for _, chains in quickstart_steps(world, 7, TRAINING) for chain in chains for stage in chain.stages]
    trainings = [command for command in commands if command[0] == "tools/train_net.py"]
    assert [command[command.index("SEED") + 1] for command in trainings] == ["7", "7", "7"]


def test_slow_cpus_train_less() -> None:
    fast, slow = quickstart_training(True), quickstart_training(False)
    assert fast.pretrain_epochs > slow.pretrain_epochs and fast.finetune_iterations > slow.finetune_iterations


def test_steps_run_in_order_and_the_end_says_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ran = []
    monkeypatch.setattr(World, "draw", lambda self: ran.append("draw"))
    monkeypatch.setattr(quickstart, "run_chains", lambda chains, folder, jobs, lock: ran.append([chain.name for chain in chains]))
    write_results(tmp_path)
    run_quickstart(REPO, tmp_path, 0)
    assert ran == ["draw", ["masks_fh"], ["views"], ["detcon_b"], ["random", "detcon_b"], ["report"]]
    out = capsys.readouterr().out
    assert all(f"[{i}/6]" in out for i in range(1, 7))
    assert str(tmp_path / "report.html") in out


def test_summary_tells_the_ap_of_both_arms(tmp_path: Path) -> None:
    write_results(tmp_path)
    lines = summary(tmp_path, 90.0).splitlines()
    assert "1.5 minutes" in lines[1]
    assert [line.split()[-2:] for line in lines[3:5]] == [["10.0", "8.0"], ["17.5", "15.5"]]


def test_ap_is_read_from_one_data_set_only(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    scores = {"bbox": {"AP": 1.0}, "segm": {"AP": 2.0}}
    path.write_text(json.dumps({"results": {"a": scores}}))
    assert read_ap(path) == (1.0, 2.0)
    path.write_text(json.dumps({"results": {"a": scores, "b": scores}}))
    with pytest.raises(ValueError, match="too many"):
        read_ap(path)


def test_a_folder_with_the_data_of_another_seed_is_refused_by_the_tool(tmp_path: Path, run_tool) -> None:
    generate_shapes(tmp_path / "data", ShapesConfig(seed=1, size=48, num_unlabeled=1, num_train=1, num_val=1), workers=1, progress=False)
    result = run_tool("quickstart.py", "--output", tmp_path, "--seed", "2")
    assert result.returncode == 1
    assert "Name another folder, or delete this one" in result.stderr and "Traceback" not in result.stderr
