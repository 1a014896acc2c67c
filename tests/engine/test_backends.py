"""The same runs on Detectron2 and on the subset give the same numbers."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detcon_d2 import d2
from tests import detectors
from tests.conftest import tiny_opts
from tests.detectors import detector_opts
from tests.engine.runs import BASE, final_state, finetuner, metrics, output_of, pretrainer, results, start, start_anew

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is None,
    reason="compares the subset with Detectron2, which is not installed (make test-detectron2 D2=path)",
)
BACKENDS = ("subset", "detectron2")


def run_both(folder: Path, opts: Callable[[Path], list[str]], *flags: str, config: str = BASE) -> list[Path]:
    """Run the tool on both backends; returns their OUTPUT_DIRs."""
    folders = [folder / name for name in BACKENDS]
    processes = []
    for path in folders:
        if path.name == d2.BACKEND:
            processes.append(start(opts(path), *flags, config=config))
        else:
            processes.append(start_anew(opts(path), *flags, config=config, DETCON_D2_BACKEND=path.name))
    for process in processes:
        output_of(process)
    return folders


@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_three_iterations_of_pretraining_agree(photos, tmp_path, architecture):
    extra = {"MODEL__META_ARCHITECTURE": architecture, "SOLVER__MAX_ITER": 3, "DETCON__LOG_PERIOD": 1}
    trainer = pretrainer(tiny_opts(photos, tmp_path, **extra))  # its checkpointer refers to it weakly
    trainer.checkpointer.save("initial")
    folders = run_both(tmp_path, lambda path: tiny_opts(photos, path, MODEL__WEIGHTS=tmp_path / "initial.pth", **extra))
    ours, theirs = map(final_state, folders)
    assert [state["metadata"]["backend"].split()[0] for state in (ours, theirs)] == list(BACKENDS)
    torch.testing.assert_close(ours["model"], theirs["model"], rtol=1e-4, atol=1e-4)
    ours, theirs = ([row["loss_detcon"] for row in metrics(path)] for path in folders)
    assert len(ours) == 3 and ours == pytest.approx(theirs, abs=1e-4)


@pytest.fixture(scope="module")
def finetuned(shapes, tmp_path_factory) -> list[Path]:
    """Three iterations from one initial checkpoint on each backend."""
    folder = tmp_path_factory.mktemp("finetuned")
    trainer = finetuner(detector_opts(shapes, folder))
    trainer.checkpointer.save("initial")
    extra = {"MODEL__WEIGHTS": folder / "initial.pth", "SOLVER__MAX_ITER": 3, "INPUT__MIN_SIZE_TRAIN": "(56,64,80)"}
    return run_both(folder, lambda path: detector_opts(shapes, path, **extra), config=detectors.BASE)


def test_three_iterations_of_fine_tuning_agree(finetuned):
    ours, theirs = (metrics(path)[:3] for path in finetuned)
    for one, other in zip(ours, theirs, strict=True):
        for loss in ("total_loss", "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"):
            assert one[loss] == pytest.approx(other[loss], abs=1e-4), loss


def test_one_checkpoint_has_one_ap(shapes, finetuned, tmp_path):
    extra = {"MODEL__WEIGHTS": finetuned[0] / "model_final.pth", "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0}
    folders = run_both(tmp_path, lambda path: detector_opts(shapes, path, **extra), "--eval-only", config=detectors.BASE)
    found = [results(path) for path in folders]
    assert [content["backend"].split()[0] for content in found] == list(BACKENDS)
    (ours,), (theirs,) = (content["results"].values() for content in found)
    assert ours.keys() == theirs.keys() == {"bbox", "segm"}
    for task in ours:
        assert ours[task]["AP"] is not None
        assert ours[task] == pytest.approx(theirs[task], abs=0.01), json.dumps(theirs[task])
