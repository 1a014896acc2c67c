"""The quickstart's commands: in order, each once, with a clear end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detcon_d2.quickstart import quickstart as module
from detcon_d2.quickstart.quickstart import quickstart_plan, quickstart_training, run_quickstart, summary
from detcon_d2.quickstart.runs import DataSet
from detcon_d2.quickstart.shapes import ShapesConfig, generate_shapes
from tests.conftest import REPO


@pytest.fixture
def commands(tmp_path: Path) -> list:
    plan = quickstart_plan(DataSet(tmp_path, ShapesConfig()), quickstart_training(7, True))
    return [command for chains in plan.values() for chain in chains.values() for command in chain]


def test_every_file_that_a_command_needs_is_made_by_an_earlier_one_and_every_training_has_the_seed(commands, tmp_path):
    tools = ["generate_masks", "visualize_views", "train_net", "convert_to_d2", "train_net", "train_net", "report"]
    assert [command.words[0] for command in commands] == [f"tools/{name}.py" for name in tools]
    made: set[str] = set()
    for command in commands:
        inputs = [word for word in command.words if word.startswith(str(tmp_path)) and word != str(command.product)]
        assert {word for word in inputs if word.endswith((".pth", ".yaml"))} <= made, command.title
        made.add(str(command.product))
    trainings = [command.words for command in commands if command.words[0] == "tools/train_net.py"]
    assert [words[words.index("SEED") + 1] for words in trainings] == ["7", "7", "7"]


def test_parts_run_in_order_and_the_end_has_the_ap_of_both_runs_and_the_files_to_open(quickstart, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(DataSet, "generate", lambda self: ran.append("images"))
    monkeypatch.setattr(module, "is_finished", lambda chain: True)
    monkeypatch.setattr(module, "run_chains", lambda chains, jobs: ran.append(list(chains)))
    run_quickstart(quickstart, quickstart_training(0, True))
    assert ran == ["images", ["regions"], ["views"], ["detcon_b"], ["random", "detcon_b"], ["report"]]
    out = capsys.readouterr().out
    assert all(f"[{i}/6]" in out for i in range(1, 7)) and str(quickstart / "report.html") in out
    lines = summary(DataSet(quickstart, ShapesConfig()), 90.0).splitlines()
    assert "1.5 minutes" in lines[1] and [line.split()[-2:] for line in lines[3:5]] == [["14.1", "11.1"], ["21.4", "18.4"]]


def test_the_tool_refuses_a_folder_with_the_data_of_another_seed(tmp_path, run_tool):
    generate_shapes(tmp_path / "data", ShapesConfig(seed=1, size=48, num_unlabeled=1, num_train=1, num_val=1), workers=1, progress=False)
    result = run_tool("quickstart.py", "--output", tmp_path, "--seed", "2")
    assert result.returncode == 1
    assert "Name another folder, or delete this one" in result.stderr and "Traceback" not in result.stderr


def test_the_processes_that_draw_images_do_not_import_torch():
    # They import the tool's file again, and with it this module.
    code = "import sys, detcon_d2.quickstart.quickstart, detcon_d2.quickstart.evidence; sys.exit('torch' in sys.modules)"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), *sys.path])}
    assert subprocess.run([sys.executable, "-c", code], env=environ).returncode == 0
