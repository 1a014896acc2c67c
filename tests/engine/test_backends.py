"""The same run on Detectron2 and on the subset gives the same numbers."""

import importlib.util
import json
import subprocess

import pytest
import torch

from detcon_d2.checkpoint import load_checkpoint_file
from detcon_d2.engine import DetConTrainer, setup
from tests.conftest import PATIENCE, tiny_opts
from tests.engine.test_trainer import arguments, start


@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_three_iterations_from_one_initial_checkpoint_agree(photos, tmp_path, architecture, monkeypatch):
    if importlib.util.find_spec("detectron2") is None:
        pytest.skip("compares the subset with Detectron2, which is not installed (make test-detectron2 D2=path)")
    extra = {"MODEL__META_ARCHITECTURE": architecture, "SOLVER__MAX_ITER": 3, "DETCON__LOG_PERIOD": 1}
    trainer = DetConTrainer(*setup(arguments(tiny_opts(photos, tmp_path, **extra))))
    trainer.checkpointer.save("initial")
    runs: dict[str, subprocess.Popen] = {}
    for backend in ("subset", "detectron2"):
        monkeypatch.setenv("DETCON_D2_BACKEND", backend)
        runs[backend] = start(tiny_opts(photos, tmp_path / backend, MODEL__WEIGHTS=tmp_path / "initial.pth", **extra))
    for process in runs.values():
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
    subset, real = (load_checkpoint_file(tmp_path / backend / "model_final.pth") for backend in runs)
    assert subset["metadata"]["backend"].startswith("subset") and real["metadata"]["backend"].startswith("detectron2")
    torch.testing.assert_close(subset["model"], real["model"], rtol=1e-4, atol=1e-4)
    losses = [[json.loads(line)["loss_detcon"] for line in (tmp_path / name / "metrics.json").read_text().splitlines()] for name in runs]
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], abs=1e-4)
