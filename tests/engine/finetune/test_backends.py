"""Fine-tuning and evaluation on Detectron2 and on the subset give the same numbers."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detcon_d2.engine import FinetuneTrainer, setup_finetuning
from tests.conftest import PATIENCE, REPO
from tests.detectors import BASE, arguments, detector_opts

LOSSES = ("total_loss", "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc")


def start(backend: str, opts: list[str], *flags: str) -> subprocess.Popen:
    command = [sys.executable, str(REPO / "tools" / "train_net.py"), "--config-file", BASE, *flags, *opts]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), *sys.path]), "OMP_NUM_THREADS": "1", "DETCON_D2_BACKEND": backend}
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def runs(shapes, tmp_path_factory) -> dict[str, Path]:
    """Three iterations, and an evaluation of one and the same checkpoint, on both backends."""
    if importlib.util.find_spec("detectron2") is None:
        pytest.skip("compares the subset with Detectron2, which is not installed (make test-detectron2 D2=path)")
    folder = tmp_path_factory.mktemp("runs")
    trainer = FinetuneTrainer(*setup_finetuning(arguments(detector_opts(shapes, folder))))
    trainer.checkpointer.save("initial")
    extra = {"MODEL__WEIGHTS": folder / "initial.pth", "SOLVER__MAX_ITER": 3, "INPUT__MIN_SIZE_TRAIN": "(56,64,80)"}
    for step, flags in (("train", ()), ("eval", ("--eval-only",))):
        if step == "eval":
            extra = {"MODEL__WEIGHTS": folder / "subset" / "model_final.pth", "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0}
        names = {backend: backend if step == "train" else f"{backend}_eval" for backend in ("subset", "detectron2")}
        processes = [start(backend, detector_opts(shapes, folder / name, **extra), *flags) for backend, name in names.items()]
        for process in processes:
            output, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, output
    return {path.name: path for path in folder.iterdir() if path.is_dir()}


def test_three_losses_from_one_initial_checkpoint_agree(runs):
    subset, real = (
        [json.loads(line) for line in (runs[name] / "metrics.json").read_text().splitlines()] for name in ("subset", "detectron2")
    )
    for ours, theirs in zip(subset[:3], real[:3], strict=True):
        for loss in LOSSES:
            assert ours[loss] == pytest.approx(theirs[loss], abs=1e-4), loss


def test_one_checkpoint_has_one_ap(runs):
    ours, theirs = (json.loads((runs[f"{name}_eval"] / "results.json").read_text()) for name in ("subset", "detectron2"))
    assert ours["backend"].startswith("subset") and theirs["backend"].startswith("detectron2")
    (ours,), (theirs,) = ours["results"].values(), theirs["results"].values()
    assert ours.keys() == theirs.keys() == {"bbox", "segm"}
    for task in ours:
        assert ours[task].keys() == theirs[task].keys() and ours[task]["AP"] is not None
        for metric, value in ours[task].items():
            assert value == pytest.approx(theirs[task][metric], abs=0.01), (task, metric)
