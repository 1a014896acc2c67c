"""A full or missing disk, a hanging worker, or no network: one clear line, nothing lost, and the same command continues."""

import errno
import os
import resource
import signal
import sys
import threading

import pytest
import torch

from detcon_d2.checkpoint import DetConCheckpointer
from detcon_d2.data import PretrainingMapper
from tests.conftest import REPO, tiny_opts, write_photos
from tests.engine.runs import BASE, assert_same_state, final_state, output_of, pretrainer, start, start_anew, train


def limited(size: int) -> str:
    """Code that makes every write beyond this size of a file fail, as a full disk does."""
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    return f"import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{limit}\n"


def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_it_continues(photos, tmp_path):
    extra = {"SOLVER__CHECKPOINT_PERIOD": 2}
    train(pretrainer(tiny_opts(photos, tmp_path / "one", **extra)))
    train(pretrainer(tiny_opts(photos, tmp_path / "two", **extra | {"SOLVER__MAX_ITER": 4})))
    (tmp_path / "two" / "model_final.pth").unlink()
    (tmp_path / "two" / "model_0000003.pth").unlink()
    (tmp_path / "two" / "last_checkpoint").write_text("model_0000001.pth")
    (tmp_path / "sitecustomize.py").write_text(limited((tmp_path / "two" / "model_0000001.pth").stat().st_size // 2))
    path = os.pathsep.join([str(tmp_path), str(REPO), *sys.path])
    output = output_of(start_anew(tiny_opts(photos, tmp_path / "two", **extra), "--resume", PYTHONPATH=path), code=1)
    last = output.rstrip().splitlines()[-1]
    assert last.startswith("Stopped at iteration 3: ") and "model_0000003.pth: File too large" in last and "--resume" in last, output
    assert "Traceback" not in output and not list((tmp_path / "two").glob(".tmp-*"))
    assert (tmp_path / "two" / "last_checkpoint").read_text() == "model_0000001.pth"
    output_of(start(tiny_opts(photos, tmp_path / "two", **extra), "--resume"))
    assert_same_state(final_state(tmp_path / "one"), final_state(tmp_path / "two"))


def test_torchs_own_error_of_a_full_disk_names_the_file_and_the_reason(tmp_path):
    checkpointer = DetConCheckpointer(torch.nn.Linear(1000, 1000), str(tmp_path))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*m\.pth: File too large; what was written before is kept"):
            checkpointer.save("m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_an_output_dir_that_cannot_be_written_is_one_line(photos, tmp_path):
    (tmp_path / "file").touch()
    output = output_of(start(tiny_opts(photos, tmp_path / "file" / "out")), code=2)
    assert f"cannot write to {tmp_path}/file/out: Not a directory" in output and "Traceback" not in output


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "Stale file handle"), OSError("<urlopen error no network>")])
def test_what_the_disk_or_the_network_refuses_before_training_is_one_line(photos, tmp_path, run_tool, monkeypatch, error):
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("detcon_d2.engine.setup.load_training_records", fail)
    result = run_tool("train_net.py", "--config-file", BASE, *tiny_opts(photos, tmp_path))
    assert result.returncode == 2 and result.stderr.rstrip().splitlines()[-1].endswith(str(error))


def test_a_worker_that_hangs_ends_the_run_after_the_time_of_the_config(tmp_path, monkeypatch):
    """As in a read from a network disk that is gone."""
    photos = write_photos(tmp_path / "photos", 4)
    trainer = pretrainer(tiny_opts(photos, tmp_path / "out", DATALOADER__NUM_WORKERS=1, DETCON__LOADER_TIMEOUT=1))
    monkeypatch.setattr(PretrainingMapper, "read", lambda *_: threading.Event().wait())
    with pytest.raises(RuntimeError, match=r"No batch within the 1 s of DETCON.LOADER_TIMEOUT: a worker process hangs"):
        trainer.train()
