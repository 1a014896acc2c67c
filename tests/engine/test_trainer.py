"""A run is a function of its config: resumed, killed, over two processes, it gives the same numbers; it stops on NaN and says where."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.engine import DetConTrainer, NonFiniteLossError, launch, setup
from tests.conftest import PATIENCE, REPO, tiny_opts, write_photos

BASE = str(REPO / "configs" / "Base-DetCon.yaml")
TOOL = str(REPO / "tools" / "train_net.py")
# The tool, killed before iteration 14.
KILLED_TOOL = """
import os, signal, sys
from detcon_d2.cli.train_net import main
from detcon_d2.engine import DetConTrainer

def run_step(self, run_step=DetConTrainer.run_step):
    if self.iter == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    run_step(self)

DetConTrainer.run_step = run_step
main(sys.argv[1:])
"""


def arguments(opts: list[str], num_gpus: int = 1) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=BASE, opts=opts, resume=False, eval_only=False, num_gpus=num_gpus, num_machines=1, machine_rank=0, dist_url="auto"
    )


def run(args: argparse.Namespace, resume: bool = False) -> DetConTrainer:
    trainer = DetConTrainer(*setup(args))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def final_state(folder: Path) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)


def momenta(state: dict) -> list[torch.Tensor]:
    return [entry["momentum_buffer"] for entry in state["trainer"]["optimizer"]["state"].values()]


def assert_same_state(a: dict, b: dict) -> None:
    torch.testing.assert_close(a["model"], b["model"], rtol=0, atol=0)
    torch.testing.assert_close(a["trainer"]["optimizer"]["state"], b["trainer"]["optimizer"]["state"], rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
@pytest.mark.parametrize("optimizer", ["LARS", "AdamW"])
def test_training_runs_and_logs_every_figure(photos, tmp_path, architecture, optimizer):
    opts = tiny_opts(photos, tmp_path, MODEL__META_ARCHITECTURE=architecture, DETCON__SOLVER__OPTIMIZER=optimizer, DETCON__LOG_PERIOD=2)
    trainer = run(arguments(opts))
    assert trainer.iter == 4
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    expected = {"total_loss", "loss_detcon", "loss_probe", "lr", "data_time", "images_per_second", "probe/accuracy"}
    expected |= {f"learning/{name}" for name in ("projection_std", "positive_fraction", "regions_per_view", "retrieval_top1")}
    assert expected | ({"ema_momentum"} if architecture == "DetConB" else set()) <= set(last)
    metadata = final_state(tmp_path)["metadata"]
    assert metadata["method"] == architecture and metadata["iterations"] == 4 and metadata["epochs"] == pytest.approx(4 * 4 / 12)
    assert metadata["backend"].startswith(d2.BACKEND) and metadata["channel_order"] == "RGB"


@pytest.mark.parametrize("amp", ["bf16", "off"])
def test_a_resumed_run_is_bit_exact(photos, tmp_path, amp):
    extra = {"SOLVER__AMP__ENABLED": amp == "bf16", "SOLVER__CHECKPOINT_PERIOD": 2, "DATALOADER__NUM_WORKERS": 1}
    run(arguments(tiny_opts(photos, tmp_path / "one", **extra)))
    interrupted = arguments(tiny_opts(photos, tmp_path / "two", **extra))
    trainer = DetConTrainer(*setup(interrupted))
    trainer.register_hooks([_StopAfter(2)])
    with pytest.raises(_Stopped):
        trainer.train()
    resumed = run(interrupted, resume=True)
    assert resumed.start_iter == 2
    assert_same_state(final_state(tmp_path / "one"), final_state(tmp_path / "two"))


@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_compiled_encoders_train_as_plain_ones_do(photos, tmp_path, architecture):
    # aot_eager: the compiler's graphs of forward and backward without the minutes of making machine code of them.
    plain, compiled = (
        tiny_opts(photos, tmp_path / name, MODEL__META_ARCHITECTURE=architecture, DETCON__COMPILE=name, DETCON__SOLVER__OPTIMIZER="SGD")
        for name in ("", "aot_eager")
    )
    run(arguments(plain))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    run(arguments(compiled))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(final_state(tmp_path / "aot_eager")["model"], final_state(tmp_path)["model"], rtol=1e-4, atol=1e-5)


class _Stopped(Exception):
    pass


class _StopAfter(d2.HookBase):
    def __init__(self, iterations: int):
        self._iterations = iterations

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self._iterations:
            raise _Stopped


def start(opts: list[str], *flags: str, new_session: bool = False, tool: tuple[str, ...] = (TOOL,)) -> subprocess.Popen:
    command = [sys.executable, *tool, "--config-file", BASE, *flags, *opts]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=new_session
    )


def test_20_iterations_equal_10_a_sigkill_and_10_more(photos, tmp_path):
    """Through the tool, as a user would: one run is killed some iterations after the checkpoint of iteration 10."""
    extra = {"SOLVER__MAX_ITER": 20, "SOLVER__CHECKPOINT_PERIOD": 10}
    whole = start(tiny_opts(photos, tmp_path / "one", **extra))
    killed = start(tiny_opts(photos, tmp_path / "two", **extra), tool=("-c", KILLED_TOOL))
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in (whole, killed)]
    assert (whole.returncode, killed.returncode) == (0, -signal.SIGKILL), outputs
    assert (tmp_path / "two" / "last_checkpoint").read_text() == "model_0000009.pth"
    resumed = start(tiny_opts(photos, tmp_path / "two", **extra), "--resume")
    output, _ = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0 and "Resuming at iteration 10 of 20" in output, output
    assert_same_state(final_state(tmp_path / "one"), final_state(tmp_path / "two"))


def run_main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    run(args)


@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_two_processes_equal_one_with_the_double_batch(photos, tmp_path, architecture, monkeypatch):
    """A whole step: data, encoder, heads, loss, gradients, LARS, EMA; compared by the weights after two steps."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    extra = {"MODEL__META_ARCHITECTURE": architecture, "SOLVER__MAX_ITER": 2, "SOLVER__WARMUP_ITERS": 0, "DETCON__PROBE__ENABLED": False}
    run(arguments(tiny_opts(photos, tmp_path / "one", **extra)))
    launch(run_main, arguments(tiny_opts(photos, tmp_path / "two", **extra), num_gpus=2))
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text().splitlines()[-1])["total_loss"] for name in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-4)
    one, two = final_state(tmp_path / "one"), final_state(tmp_path / "two")
    # The gradients, as LARS saw them; a step moves the weights too little to tell.
    assert len(momenta(one)) == len(momenta(two)) > 100
    for index, (m, n) in enumerate(zip(momenta(one), momenta(two))):
        assert (m - n).norm() <= 1e-3 * m.norm() + 1e-5, index
    a, b = one["model"], two["model"]
    for key in a:
        # torch's BN keeps the unbiased variance and counts batches, Detectron2's naiveSyncBN keeps the biased one and does not count.
        if not key.endswith(("running_var", "num_batches_tracked")):
            torch.testing.assert_close(b[key], a[key], rtol=1e-4, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("where", ["worker", "device"])
def test_nan_stops_the_run_names_the_iteration_and_saves_the_batch(photos, tmp_path, where):
    trainer = DetConTrainer(*setup(arguments(tiny_opts(photos, tmp_path, DETCON__AUG__WHERE=where))))
    trainer.register_hooks([_PoisonWeights(1)])
    with pytest.raises(NonFiniteLossError, match=r"not finite at iteration 2 on process 0.*nan_batch_iter2_rank0.pth"):
        trainer.train()
    saved = torch.load(tmp_path / "nan_batch_iter2_rank0.pth", weights_only=True)
    assert saved["iteration"] == 2 and len(saved["batch"]) == len(saved["previous_batch"]) == 4
    assert saved["batch"][0]["views"][0]["image"].shape == (3, 64, 64)
    assert not (tmp_path / "model_final.pth").exists()


class _PoisonWeights(d2.HookBase):
    def __init__(self, iteration: int):
        self._iteration = iteration

    def after_step(self) -> None:
        if self.trainer.iter == self._iteration:
            with torch.no_grad():
                next(self.trainer.model.parameters()).fill_(float("nan"))


def test_a_nan_gradient_stops_the_run_before_it_reaches_weights_or_checkpoint(photos, tmp_path):
    trainer = DetConTrainer(*setup(arguments(tiny_opts(photos, tmp_path, SOLVER__CHECKPOINT_PERIOD=1))))
    weight = next(trainer.model.parameters())
    weight.register_hook(lambda grad: grad * float("nan") if trainer.iter == 2 else grad)
    with pytest.raises(NonFiniteLossError, match="gradient is not finite at iteration 2"):
        trainer.train()
    assert weight.isfinite().all() and (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_the_target_follows_weights_that_hold_an_encoder_only(photos, tmp_path):
    trainer = DetConTrainer(*setup(arguments(tiny_opts(photos, tmp_path / "a"))))
    encoder = {f"encoder.{key}": value + 0.01 for key, value in trainer.model.encoder.state_dict().items() if value.is_floating_point()}
    torch.save({"model": encoder}, tmp_path / "encoder.pth")
    trainer = DetConTrainer(*setup(arguments(tiny_opts(photos, tmp_path / "b", MODEL__WEIGHTS=tmp_path / "encoder.pth"))))
    trainer.resume_or_load(resume=False)
    torch.testing.assert_close(trainer.model.encoder.stem.conv1.weight, encoder["encoder.stem.conv1.weight"], rtol=0, atol=0)
    torch.testing.assert_close(trainer.model.target["encoder"].stem.conv1.weight, encoder["encoder.stem.conv1.weight"], rtol=0, atol=0)


def test_resume_on_other_images_is_refused(photos, tmp_path):
    run(arguments(tiny_opts(photos, tmp_path / "out")))
    other = write_photos(tmp_path / "other", 12)
    (other / "a" / "000.png").rename(other / "a" / "zzz.png")
    trainer = DetConTrainer(*setup(arguments(tiny_opts(other, tmp_path / "out"))))
    with pytest.raises(ValueError, match="dataset_digest: "):
        trainer.resume_or_load(resume=True)


def test_resume_with_another_batch_size_is_refused(photos, tmp_path):
    run(arguments(tiny_opts(photos, tmp_path)))
    trainer = DetConTrainer(*setup(arguments(tiny_opts(photos, tmp_path, SOLVER__IMS_PER_BATCH=2))))
    with pytest.raises(ValueError, match="ims_per_batch: 4 in the checkpoint, 2 in this run"):
        trainer.resume_or_load(resume=True)


def test_only_the_newest_checkpoints_are_kept(photos, tmp_path):
    run(arguments(tiny_opts(photos, tmp_path, SOLVER__CHECKPOINT_PERIOD=1, DETCON__SOLVER__MAX_TO_KEEP=2)))
    kept = sorted(path.name for path in tmp_path.glob("model_*.pth"))
    assert "model_final.pth" in kept and len(kept) <= 3
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_batch_of_one_image_trains(photos, tmp_path):
    trainer = run(arguments(tiny_opts(photos, tmp_path, SOLVER__IMS_PER_BATCH=1)))
    assert trainer.iter == 4


def test_a_users_mistake_is_one_line_without_traceback(tmp_path):
    process = start(tiny_opts(tmp_path / "nowhere", tmp_path / "out"))
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "train_net.py: " in output and "Traceback" not in output, output


def test_a_corrupt_image_is_named(tmp_path):
    photos = write_photos(tmp_path / "photos", 4)
    (photos / "a" / "000.png").write_bytes(b"not an image")
    trainer = DetConTrainer(*setup(arguments(tiny_opts(photos, tmp_path / "out"))))
    with pytest.raises(ValueError, match=r"000\.png"):
        trainer.train()


def test_a_failing_run_with_workers_ends(tmp_path):
    photos = write_photos(tmp_path / "photos", 8)
    (photos / "a" / "004.png").write_bytes(b"not an image")
    process = start(tiny_opts(photos, tmp_path / "out", DATALOADER__NUM_WORKERS=1))
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "004.png" in output


def test_a_signal_to_the_whole_job_saves_and_stops_it_and_it_resumes(photos, tmp_path):
    """As a scheduler does: main process and workers get SIGTERM; the run still finishes its iteration and saves."""
    opts = tiny_opts(photos, tmp_path, SOLVER__MAX_ITER=3000, DATALOADER__NUM_WORKERS=1, SOLVER__CHECKPOINT_PERIOD=1000)
    process = start(opts, new_session=True)
    deadline = time.monotonic() + PATIENCE
    metrics = tmp_path / "metrics.json"
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "continue with --resume" in output, output
    last = (tmp_path / "last_checkpoint").read_text()
    state = torch.load(tmp_path / last, weights_only=True)
    assert last == f"model_{state['iteration']:07d}.pth" and state["metadata"]["iterations"] == state["iteration"] + 1
    trainer = DetConTrainer(*setup(arguments(opts)))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == state["iteration"] + 1
