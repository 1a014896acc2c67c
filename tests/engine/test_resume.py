"""A run continues the newest checkpoint that can be read, with the same settings, and no two runs share an OUTPUT_DIR."""

import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detcon_d2.checkpoint import load_checkpoint_file
from detcon_d2.io.lock import hold_folder
from tests.conftest import tiny_opts
from tests.detectors import detector_opts
from tests.engine.runs import StopAfter, Stopped, finetuner, metrics, output_of, pretrainer, start, train


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory) -> Path:
    """The output of four iterations, with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("finished")
    train(pretrainer(opts_of(photos, folder)))
    return folder


def opts_of(photos: Path, folder: Path, **extra: object) -> list[str]:
    return tiny_opts(photos, folder, **{"SOLVER__CHECKPOINT_PERIOD": 1, "DETCON__SOLVER__MAX_TO_KEEP": 0} | extra)


@pytest.fixture
def interrupted(finished, tmp_path) -> Path:
    """A copy that ends with the checkpoints of iterations 0 to 2, without the final one."""
    for number in range(3):
        os.link(finished / f"model_{number:07d}.pth", tmp_path / f"model_{number:07d}.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    return tmp_path


def truncate(path: Path, size: int) -> None:
    content = path.read_bytes()
    path.unlink()  # it is a link
    path.write_bytes(content[:size])


def cut(size: int):
    return lambda folder: truncate(folder / "model_0000002.pth", size)


def flip_bit(folder: Path) -> None:
    path = folder / "model_0000002.pth"
    weight = load_checkpoint_file(path)["model"]["projector.fc1.weight"]
    content = bytearray(path.read_bytes())
    path.unlink()  # it is a link
    content[content.index(weight.numpy().tobytes())] ^= 1
    path.write_bytes(content)


def tag(content: bytes):
    return lambda folder: (folder / "last_checkpoint").write_bytes(content)


def without_optimizer(folder: Path) -> None:
    state = load_checkpoint_file(folder / "model_0000002.pth")
    (folder / "model_0000002.pth").unlink()
    torch.save({"model": state["model"]}, folder / "model_0000002.pth")


@pytest.mark.parametrize(
    ("harm", "message", "continued"),
    [
        (tag(b""), "last_checkpoint is empty", 3),
        (tag(b"model_0000017.pth"), r"last_checkpoint names 'model_0000017.pth', which is not there", 3),
        (tag(b"\xff\x00" * 3000), "last_checkpoint names .*which is not there", 3),
        (lambda folder: (folder / "last_checkpoint").unlink(), r"is missing.*model_0000002.pth, model_0000001.pth, model_0000000.pth", 3),
        (cut(0), "model_0000002.pth: the file is empty.*The checkpoint before it is taken", 2),
        (flip_bit, r"model_0000002.pth: .* is damaged.*The checkpoint before it is taken", 2),
        (cut(5000), "model_0000002.pth: .*The checkpoint before it is taken", 2),
        (without_optimizer, "model_0000002.pth is no checkpoint of a run", 2),
    ],
)
def test_what_cannot_be_read_is_named_and_the_checkpoint_before_is_continued(photos, interrupted, caplog, harm, message, continued):
    harm(interrupted)
    trainer = pretrainer(opts_of(photos, interrupted))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == continued
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING and "detcon" not in record.name]
    assert re.search(message, warning), warning


def test_without_any_readable_checkpoint_nothing_starts(photos, tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    (tmp_path / "model_0000002.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"No checkpoint in .* can be read \(found: model_0000002.pth"):
        pretrainer(opts_of(photos, tmp_path)).resume_or_load(resume=True)


def numbered(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("model_0*.pth"))


def test_the_number_of_checkpoints_holds_over_interruptions_and_signals(photos, interrupted):
    """Also of those that an earlier run with another number has left."""
    opts = opts_of(photos, interrupted, DETCON__SOLVER__MAX_TO_KEEP=2, SOLVER__CHECKPOINT_PERIOD=100)
    trainer = pretrainer(opts)
    trainer.stop_requested = True
    with pytest.raises(SystemExit, match="after iteration 0"):
        trainer.train()
    assert numbered(interrupted) == [f"model_{number:07d}.pth" for number in range(3)], "a new run removes only its own"
    (interrupted / "last_checkpoint").write_text("model_0000001.pth")
    trainer = pretrainer(opts_of(photos, interrupted, DETCON__SOLVER__MAX_TO_KEEP=2))
    trainer.resume_or_load(resume=True)
    trainer.register_hooks([StopAfter(3)])
    with pytest.raises(Stopped):
        trainer.train()
    assert numbered(interrupted) == ["model_0000001.pth", "model_0000002.pth"]
    train(pretrainer(opts_of(photos, interrupted, DETCON__SOLVER__MAX_TO_KEEP=1)), resume=True)
    assert numbered(interrupted) == ["model_0000003.pth"] and (interrupted / "model_final.pth").exists()


def test_files_of_killed_runs_and_half_a_line_of_metrics_go_at_the_start(photos, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (tmp_path / "kmeans").mkdir()
    host = socket.gethostname().replace("-", "_")
    left = [
        f".tmp-{host}-{child.pid}-0",
        f".tmp-another_machine-{os.getppid()}-3",
        f".tmp-{host}-{os.getpid()}-0",
        f"kmeans/.tmp-{host}-{child.pid}-1",
    ]
    for name in left:
        (tmp_path / name).touch()
    (tmp_path / f".tmp-{host}-{os.getppid()}-0").touch()
    (tmp_path / "metrics.json").write_text('{"iteration": 0}\n{"itera')
    train(pretrainer(opts_of(photos, tmp_path, SOLVER__MAX_ITER=1, DETCON__LOG_PERIOD=1, SOLVER__WARMUP_ITERS=0)))
    assert [path.name for path in tmp_path.rglob(".tmp-*")] == [f".tmp-{host}-{os.getppid()}-0"], "that of a living process stays"
    assert [row["iteration"] for row in metrics(tmp_path)] == [0, 0]


def test_a_second_run_in_the_same_folder_is_refused_in_one_line(photos, tmp_path):
    hold_folder(tmp_path)
    output = output_of(start(opts_of(photos, tmp_path)), code=2)
    assert f"another run works in {tmp_path} (process {os.getpid()} on {socket.gethostname()})" in output and "Traceback" not in output
    assert not (tmp_path / "log.txt").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DETCON.TEMPERATURE", 0.5),
        ("DETCON.VIEWS.SIZE", 32),
        ("DETCON.NUM_SAMPLES", 5),
        ("SOLVER.WEIGHT_DECAY", 0.5),
        ("SOLVER.BASE_LR", 0.5),
        ("DETCON.SOLVER.OPTIMIZER", "SGD"),
        ("SOLVER.AMP.ENABLED", True),
        ("DETCON.MICRO_BATCH", 2),
        ("DETCON.AUG.HUE", 0.0),
    ],
)
def test_a_changed_setting_is_named_and_refused_on_resume(photos, interrupted, monkeypatch, key, value):
    monkeypatch.setattr("detcon_d2.engine.setup.has_fast_bf16", lambda: True)
    opts = [*opts_of(photos, interrupted), "DETCON.SOLVER.BASE_LR_256", "0.0", key, str(value)]
    base = [*opts_of(photos, interrupted), "DETCON.SOLVER.BASE_LR_256", "0.0"]
    saved = pretrainer(base)
    saved.checkpointer.save("model_0000002", iteration=2)
    trainer = pretrainer(opts)
    with pytest.raises(ValueError, match=rf"(?s)cannot continue.*{key}: .* in the checkpoint, {re.escape(repr(value))} in this run"):
        trainer.resume_or_load(resume=True)


def test_a_harmless_change_is_reported_and_a_lenient_resume_trains_with_what_it_announces(photos, interrupted):
    lenient = {
        "DETCON__SOLVER__STRICT_RESUME": False,
        "DETCON__SOLVER__BASE_LR_256": 0.0,
        "SOLVER__BASE_LR": 0.5,
        "SOLVER__WEIGHT_DECAY": 0.25,
    }
    trainer = train(pretrainer(opts_of(photos, interrupted, DETCON__LOG_PERIOD=1, **lenient)), resume=True)
    log = (interrupted / "log.txt").read_text()
    for line in ("DETCON.LOG_PERIOD 20 -> 1", "DETCON.SOLVER.MAX_TO_KEEP", "SOLVER.WEIGHT_DECAY 1e-06 -> 0.25"):
        assert ("MAX_TO_KEEP" in line) != (f"Changed since the checkpoint: {line}." in log), line
    groups = trainer.optimizer.param_groups
    assert "Learning rate 0.5" in log and [group["initial_lr"] for group in groups] == [0.5, 0.5] and groups[0]["weight_decay"] == 0.25
    fresh = pretrainer(opts_of(photos, interrupted, **lenient))
    rates = []
    for _ in range(4):
        rates.append(fresh.optimizer.param_groups[0]["lr"])
        fresh.scheduler.step()
    assert metrics(interrupted)[-1]["lr"] == rates[3]


def test_another_optimizer_is_refused_where_changes_are_allowed_too(photos, interrupted):
    lenient = {"DETCON__SOLVER__STRICT_RESUME": False, "DETCON__SOLVER__OPTIMIZER": "AdamW"}
    with pytest.raises(ValueError, match=r"of another optimizer: it has .*eta.*betas"):
        pretrainer(opts_of(photos, interrupted, **lenient)).resume_or_load(resume=True)


def test_a_checkpoint_without_a_config_resumes(photos, interrupted):
    state = load_checkpoint_file(interrupted / "model_0000002.pth")
    del state["config"]
    (interrupted / "model_0000002.pth").unlink()
    torch.save(state, interrupted / "model_0000002.pth")
    trainer = pretrainer(opts_of(photos, interrupted))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 3


def test_fine_tuning_names_a_changed_setting_too(shapes, tmp_path):
    saved = finetuner(detector_opts(shapes, tmp_path, DATASETS__TEST="()"))
    saved.checkpointer.save("model_0000000", iteration=0)
    changed = detector_opts(shapes, tmp_path, DATASETS__TEST="()", MODEL__RPN__NMS_THRESH=0.5)
    with pytest.raises(ValueError, match=r"MODEL.RPN.NMS_THRESH: 0.7 in the checkpoint, 0.5 in this run"):
        finetuner(changed, resume=True).resume_or_load(resume=True)
