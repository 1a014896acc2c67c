"""A run depends only on its config: resumed, killed, or over two processes, it gives the same numbers. It stops on NaN."""

import argparse
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detcon_d2 import d2
from detcon_d2.checkpoint import load_checkpoint_file
from detcon_d2.engine.step import NonFiniteLossError
from detcon_d2.masks.cells import NO_REGION
from tests.conftest import PATIENCE, tiny_opts, write_photos
from tests.engine.runs import (
    StopAfter,
    Stopped,
    arguments,
    assert_same_state,
    counts_of,
    final_state,
    metrics,
    momenta,
    output_of,
    pretrainer,
    run,
    start,
    train,
)
from tests.prepared import PREPARED, launch

both_methods = pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory) -> Path:
    """The output of a run of four iterations, which kept two checkpoints."""
    folder = tmp_path_factory.mktemp("finished")
    extra = {"DETCON__LOG_PERIOD": 2, "SOLVER__CHECKPOINT_PERIOD": 1, "DETCON__SOLVER__MAX_TO_KEEP": 2}
    train(pretrainer(tiny_opts(photos, folder, **extra)))
    return folder


def test_a_run_logs_every_metric_and_its_checkpoint_describes_it(finished):
    expected = {"total_loss", "loss_detcon", "loss_probe", "lr", "data_time", "images_per_second", "probe/accuracy", "ema_momentum"}
    names = "projection_std positive_fraction regions_per_view regions_in_pixels lost_regions constant_views retrieval_top1"
    expected |= {f"learning/{name}" for name in names.split()}
    assert expected <= set(metrics(finished)[-1])
    found = final_state(finished)["metadata"]
    assert (found["method"], found["iterations"], found["channel_order"]) == ("DetConB", 4, "RGB")
    assert found["epochs"] == pytest.approx(4 * 4 / 12) and found["backend"].startswith(d2.BACKEND)
    assert (found["images_seen"], found["forwards_trained"], found["forwards_no_grad"]) == (16, *[pytest.approx(32 * (64 / 224) ** 2)] * 2)
    assert "device" in found and 0 < found["seconds"] == pytest.approx(metrics(finished)[-1]["seconds"], abs=1e-3)
    assert "Budget: 16 images seen; forward passes" in (finished / "log.txt").read_text()


def test_only_the_newest_checkpoints_are_kept(finished):
    kept = sorted(path.name for path in finished.glob("model_*.pth"))
    assert "model_final.pth" in kept and len(kept) <= 3
    assert (finished / "last_checkpoint").read_text() == "model_final.pth"


def test_a_resumed_run_in_bf16_with_a_worker_is_bit_exact(photos, tmp_path):
    extra = {"SOLVER__AMP__ENABLED": True, "SOLVER__CHECKPOINT_PERIOD": 2, "DATALOADER__NUM_WORKERS": 1}
    train(pretrainer(tiny_opts(photos, tmp_path / "one", **extra)))
    interrupted = tiny_opts(photos, tmp_path / "two", **extra)
    trainer = pretrainer(interrupted)
    trainer.register_hooks([StopAfter(2)])
    with pytest.raises(Stopped):
        trainer.train()
    before = load_checkpoint_file(tmp_path / "two" / "model_0000001.pth")["metadata"]["seconds"]
    assert train(pretrainer(interrupted), resume=True).start_iter == 2
    assert_same_state(final_state(tmp_path / "one"), final_state(tmp_path / "two"))
    assert counts_of(tmp_path / "one") == counts_of(tmp_path / "two") and final_state(tmp_path / "two")["metadata"]["seconds"] > before


def test_compiled_encoders_train_as_plain_ones_do(photos, tmp_path):
    # aot_eager builds the compiler's graphs of forward and backward, but does not spend minutes on machine code for them.
    extra = {"DETCON__SOLVER__OPTIMIZER": "SGD", "MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64}
    plain, compiled = (tiny_opts(photos, tmp_path / name, DETCON__COMPILE=name, **extra) for name in ("", "aot_eager"))
    train(pretrainer(plain))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    train(pretrainer(compiled))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(final_state(tmp_path / "aot_eager")["model"], final_state(tmp_path)["model"], rtol=1e-4, atol=1e-5)
    assert counts_of(tmp_path / "aot_eager") == counts_of(tmp_path)


class KillAfter(d2.HookBase):
    def after_step(self) -> None:
        if self.trainer.iter == 12:
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_be_killed(opts: list[str]) -> None:
    torch.set_num_threads(1)
    trainer = pretrainer(opts)
    trainer.register_hooks([KillAfter()])
    trainer.train()


def test_20_iterations_equal_13_a_sigkill_and_10_more_from_the_last_checkpoint(photos, tmp_path):
    extra = {"SOLVER__MAX_ITER": 20, "SOLVER__CHECKPOINT_PERIOD": 10}
    whole = start(tiny_opts(photos, tmp_path / "one", **extra))
    killed = PREPARED.Process(target=run_and_be_killed, args=[tiny_opts(photos, tmp_path / "two", **extra)])
    killed.start()
    killed.join(PATIENCE)
    assert killed.exitcode == -signal.SIGKILL and (tmp_path / "two" / "last_checkpoint").read_text() == "model_0000009.pth"
    output_of(whole)
    assert "Resuming at iteration 10 of 20" in output_of(start(tiny_opts(photos, tmp_path / "two", **extra), "--resume"))
    assert_same_state(final_state(tmp_path / "one"), final_state(tmp_path / "two"))


def run_main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("error", ".*broadcast_buffers")
    run(args)


@both_methods
def test_two_processes_equal_one_with_the_double_batch(photos, tmp_path, architecture, monkeypatch):
    """A whole step: data, encoder, heads, loss, gradients, LARS, EMA; compared by the weights after two steps."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    extra = {"MODEL__META_ARCHITECTURE": architecture, "SOLVER__MAX_ITER": 2, "SOLVER__WARMUP_ITERS": 0, "DETCON__PROBE__ENABLED": False}
    train(pretrainer(tiny_opts(photos, tmp_path / "one", **extra)))
    launch(run_main, arguments(tiny_opts(photos, tmp_path / "two", **extra), num_gpus=2))
    one, two = (metrics(tmp_path / name)[-1]["total_loss"] for name in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-4)
    assert counts_of(tmp_path / "one") == counts_of(tmp_path / "two")
    one, two = final_state(tmp_path / "one"), final_state(tmp_path / "two")
    # LARS's momenta hold the gradients; a step changes the weights too little for a comparison.
    assert len(momenta(one)) == len(momenta(two)) > 100
    for index, (m, n) in enumerate(zip(momenta(one), momenta(two))):
        assert (m - n).norm() <= 1e-3 * m.norm() + 1e-5, index
    a, b = one["model"], two["model"]
    for key in a:
        # torch's BN keeps the unbiased variance and counts batches; Detectron2's naiveSyncBN keeps the biased one and does not count.
        if not key.endswith(("running_var", "num_batches_tracked")):
            torch.testing.assert_close(b[key], a[key], rtol=1e-4, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


class PoisonWeights(d2.HookBase):
    def after_step(self) -> None:
        if self.trainer.iter == 1:
            with torch.no_grad():
                next(self.trainer.model.parameters()).fill_(float("nan"))


@pytest.mark.parametrize("where", ["worker", "device"])
def test_nan_stops_the_run_names_the_iteration_and_saves_the_batch(photos, tmp_path, where):
    trainer = pretrainer(tiny_opts(photos, tmp_path, DETCON__AUG__WHERE=where))
    trainer.register_hooks([PoisonWeights()])
    with pytest.raises(NonFiniteLossError, match=r"not finite at iteration 2 on process 0.*nan_batch_iter2_rank0.pth"):
        trainer.train()
    saved = load_checkpoint_file(tmp_path / "nan_batch_iter2_rank0.pth")
    assert saved["iteration"] == 2 and len(saved["batch"]) == len(saved["previous_batch"]) == 4
    assert saved["batch"][0]["views"][0]["image"].shape == (3, 64, 64)
    assert not (tmp_path / "model_final.pth").exists()


def test_a_nan_gradient_stops_the_run_before_it_reaches_weights_or_checkpoint(photos, tmp_path):
    trainer = pretrainer(tiny_opts(photos, tmp_path, SOLVER__CHECKPOINT_PERIOD=1))
    weight = next(trainer.model.parameters())
    weight.register_hook(lambda grad: grad * float("nan") if trainer.iter == 2 else grad)
    with pytest.raises(NonFiniteLossError, match="gradient is not finite at iteration 2"):
        trainer.train()
    assert weight.isfinite().all() and (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_the_target_follows_weights_that_hold_an_encoder_only(photos, tmp_path):
    trainer = pretrainer(tiny_opts(photos, tmp_path / "a"))
    encoder = {f"encoder.{key}": value + 0.01 for key, value in trainer.model.encoder.state_dict().items() if value.is_floating_point()}
    torch.save({"model": encoder}, tmp_path / "encoder.pth")
    trainer = pretrainer(tiny_opts(photos, tmp_path / "b", MODEL__WEIGHTS=tmp_path / "encoder.pth"))
    trainer.resume_or_load(resume=False)
    for network in (trainer.model.encoder, trainer.model.target["encoder"]):
        torch.testing.assert_close(network.stem.conv1.weight, encoder["encoder.stem.conv1.weight"], rtol=0, atol=0)


def test_resume_on_other_images_or_with_another_batch_size_is_refused(photos, finished, tmp_path):
    other = write_photos(tmp_path / "other", 12)
    (other / "a" / "000.png").rename(other / "a" / "zzz.png")
    for opts, message in (
        (tiny_opts(other, tmp_path), "dataset_digest: "),
        (tiny_opts(photos, tmp_path, SOLVER__IMS_PER_BATCH=2), "ims_per_batch: 4 in the checkpoint, 2 in this run"),
    ):
        trainer = pretrainer(opts)
        (tmp_path / "last_checkpoint").write_text(str(finished / "model_final.pth"))
        with pytest.raises(ValueError, match=message):
            trainer.resume_or_load(resume=True)


@pytest.mark.parametrize("smallest", [{"SOLVER__IMS_PER_BATCH": 1}, {"DETCON__NUM_SAMPLES": 1}])
def test_a_batch_of_one_image_or_one_region_trains(photos, tmp_path, smallest):
    assert train(pretrainer(tiny_opts(photos, tmp_path, **smallest))).iter == 4


def test_without_a_period_only_the_end_is_saved(photos, tmp_path):
    train(pretrainer(tiny_opts(photos, tmp_path, SOLVER__CHECKPOINT_PERIOD=0)))
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_final.pth"]


def test_a_run_without_a_loss_is_warned_of_at_its_first_line(empty_set, tmp_path):
    """All pixels of its label maps are background."""
    for number in range(4):
        empty_set.add(f"{number}.png", Image.new("RGB", (96, 72)), np.full((72, 96), NO_REGION, np.uint16))
    regions = {"DETCON__MASKS__SOURCE": "files", "DETCON__MASKS__ROOTS": f'("{empty_set.masks}",)', "DETCON__PROBE__ENABLED": False}
    train(pretrainer(tiny_opts(empty_set.folder, tmp_path / "run", DETCON__LOG_PERIOD=2, **regions)))
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    (warning,) = [number for number, line in enumerate(lines) if "loss_detcon of all iterations so far is exactly 0" in line]
    assert "iter: 2/4" in lines[warning - 1] and "DETCON.MASKS" in lines[warning]


def test_a_corrupt_image_is_named_and_ends_the_run(tmp_path):
    photos = write_photos(tmp_path / "photos", 4)
    (photos / "a" / "000.png").write_bytes(b"not an image")
    assert "000.png" in output_of(start(tiny_opts(photos, tmp_path / "out", DATALOADER__NUM_WORKERS=1)), code=1)
