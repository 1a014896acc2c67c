"""The quickstart's stages: commands a user could type, each run once, with a clear end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from detcon_d2.data.shapes import ShapesConfig, generate_shapes
from detcon_d2.engine import quickstart
from detcon_d2.engine.quickstart import Stage, pretraining_stages, run_quickstart, run_stage, summary

CHECKOUT = Path(__file__).resolve().parents[2]


def write_run(run: Path) -> None:
    run.mkdir(parents=True)
    rows = [{"iteration": i, "total_loss": 19.0 - i, "loss_detcon": 9.0 - i, "learning/retrieval_top1": 0.1 * i} for i in (0, 2, 4)]
    (run / "metrics.json").write_text("\n".join(json.dumps(row) for row in [*rows, {"iteration": 5, "eta_seconds": 0.0}]))


def test_every_stage_runs_a_tool_of_the_checkout_on_a_config_that_exists(tmp_path: Path) -> None:
    for stage in pretraining_stages(CHECKOUT, tmp_path, 0):
        assert Path(stage.command[0]).is_file(), stage.command[0]
        assert all(Path(word).is_file() for word in stage.command if word.endswith(".yaml"))


@pytest.mark.parametrize("tool", ["generate_masks", "visualize_views", "train_net"])
def test_the_tools_know_the_flags_that_the_stages_pass(tool: str, tmp_path: Path) -> None:
    command = next(stage.command for stage in pretraining_stages(CHECKOUT, tmp_path, 0) if Path(stage.command[0]).stem == tool)
    usage = subprocess.run([sys.executable, command[0], "--help"], capture_output=True, text=True, check=True, cwd=CHECKOUT).stdout
    assert [word for word in command if word.startswith("--") and word not in usage] == []


def test_overrides_of_the_stages_name_the_quickstarts_own_folders(tmp_path: Path) -> None:
    train = pretraining_stages(CHECKOUT, tmp_path, 7)[-1]
    values = dict(zip(train.command, train.command[1:]))
    assert values["OUTPUT_DIR"] == str(tmp_path / "detcon_b")
    assert values["SEED"] == "7"
    assert str(tmp_path / "data/images/unlabeled") in values["DATASETS.TRAIN"]
    assert "--resume" in train.command


def test_a_stage_with_its_product_is_not_run_again(tmp_path: Path) -> None:
    product = tmp_path / "product"
    stage = Stage("append a letter", ("-c", f"open({str(product)!r}, 'a').write('x')"), product)
    run_stage(stage)
    run_stage(stage)
    assert product.read_text() == "x"


def test_a_failing_stage_stops_the_quickstart() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_stage(Stage("fails", ("-c", "raise SystemExit(3)")))
    assert caught.value.returncode == 3


def test_stages_run_in_order_and_the_end_says_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tiny = ShapesConfig(size=48, num_unlabeled=2, num_train=1, num_val=1)
    generate = lambda root, config: generate_shapes(root, tiny, workers=1, progress=False)  # noqa: E731
    ran = []
    monkeypatch.setattr(quickstart, "generate_shapes", generate)
    monkeypatch.setattr(quickstart, "run_stage", lambda stage: ran.append(Path(stage.command[0]).stem))
    write_run(tmp_path / "detcon_b")
    run_quickstart(CHECKOUT, tmp_path, 0)
    assert ran == ["generate_masks", "visualize_views", "train_net"]
    out = capsys.readouterr().out
    assert all(f"[{i}/4]" in out for i in (1, 2, 3, 4))
    assert str(tmp_path / "views.png") in out


def test_summary_tells_first_and_last_figures_and_the_files(tmp_path: Path) -> None:
    write_run(tmp_path / "detcon_b")
    text = summary(tmp_path, 90.0)
    assert "1.5 minutes" in text
    assert "9.000 -> 5.000" in text and "0.000 -> 0.400" in text
    for name in ("views.png", "log.txt", "metrics.json", "model_final.pth", "tensorboard"):
        assert name in text


def test_a_folder_with_the_data_of_another_seed_is_refused_by_the_tool(tmp_path: Path) -> None:
    generate_shapes(tmp_path / "data", ShapesConfig(seed=1, size=48, num_unlabeled=1, num_train=1, num_val=1), workers=1, progress=False)
    command = [sys.executable, str(CHECKOUT / "tools/quickstart.py"), "--output", str(tmp_path), "--seed", "2"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT)
    assert result.returncode == 1
    assert "Name another folder, or delete this one" in result.stderr and "Traceback" not in result.stderr
