"""A signal stops a job of several processes as it stops one: the iteration is finished, a checkpoint saved, and nothing else is lost."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from detcon_d2.checkpoint import load_checkpoint_file
from tests.conftest import PATIENCE, tiny_opts
from tests.engine.runs import output_of, pretrainer, start, start_anew
from tests.prepared import PreparedTool


def has_metrics(folder: Path) -> bool:
    written = folder / "metrics.json"
    return written.exists() and written.stat().st_size > 0


def is_saving(folder: Path) -> bool:
    """A checkpoint is being written, and one is there to be continued should this one be lost."""
    return (folder / "last_checkpoint").exists() and any(folder.glob(".tmp-*"))


def wait_until(condition: Callable[[Path], bool], process: subprocess.Popen | PreparedTool, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


def trainers_of(launcher: int) -> list[int]:
    """Process ids of the job's processes, in the order of their ranks."""
    children = map(int, Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split())
    return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def assert_saved_and_resumable(opts: list[str], folder: Path) -> None:
    last = (folder / "last_checkpoint").read_text()
    state = load_checkpoint_file(folder / last)
    assert last == f"model_{state['iteration']:07d}.pth" and state["metadata"]["iterations"] == state["iteration"] + 1
    assert not list(folder.glob(".tmp-*"))
    trainer = pretrainer(opts)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == state["iteration"] + 1


@pytest.mark.parametrize(
    ("number", "target", "processes", "moment"),
    [
        (signal.SIGINT, "group", 1, has_metrics),
        (signal.SIGTERM, "launcher", 2, has_metrics),
        (signal.SIGUSR1, "group", 2, is_saving),
        (signal.SIGINT, "launcher", 2, is_saving),
        (signal.SIGTERM, "last process", 2, has_metrics),
        (signal.SIGKILL, "launcher", 2, has_metrics),
    ],
)
def test_a_signal_to_a_job_saves_and_stops_it_and_it_resumes(photos, tmp_path, number, target, processes, moment):
    """As a scheduler, a container, a terminal or a user sends it. The processes of a killed launcher stop by themselves."""
    opts = {"SOLVER__MAX_ITER": 10_000, "DATALOADER__NUM_WORKERS": 1, "SOLVER__CHECKPOINT_PERIOD": int(moment is is_saving)}
    opts = tiny_opts(photos, tmp_path, DETCON__LOG_PERIOD=2, **opts)
    flags = ["--num-gpus", str(processes)]
    # Signals to all and to one of the started processes meet the processes that users have.
    process = start(opts, *flags) if target == "launcher" else start_anew(opts, *flags, new_session=True)
    wait_until(moment, process, tmp_path)
    if target == "group":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid if target == "launcher" else trainers_of(process.pid)[-1], number)
    # The output ends only when every process has closed it.
    output = output_of(process, code=-number if number == signal.SIGKILL else 1)
    assert output.count("continue with --resume") == 1 and "Traceback" not in output, output
    assert_saved_and_resumable(opts, tmp_path)
