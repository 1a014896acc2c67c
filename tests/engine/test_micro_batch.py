"""A batch in parts has the loss and the gradients of the batch in one go, where BatchNorm's statistics are held."""

from pathlib import Path

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.engine import DetConTrainer, setup_pretraining
from detcon_d2.engine.micro_batch import MicroBatches
from tests.conftest import tiny_opts
from tests.engine.runs import arguments, run
from tests.methods.test_detcon import batch, build
from tests.modeling.processes import run_processes

HELD = {"MODEL__RESNETS__NORM": "FrozenBN", "DETCON__HEAD_NORM": "FrozenBN"}


def in_parts(model: torch.nn.Module, size: int, wrapper: torch.nn.Module | None = None) -> MicroBatches:
    return MicroBatches(wrapper or model, model, size, lambda: torch.autocast("cpu", enabled=False), lambda loss: loss)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys() and found
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-7, name


def one_go(model: torch.nn.Module, records: list[dict]) -> dict[str, torch.Tensor]:
    losses = model(records)
    sum(losses.values()).backward()
    return losses


def test_running_statistics_move_once_for_each_part():
    model, records = build(), batch(6)
    other = build()
    with d2.EventStorage():
        in_parts(model, 2)(records)[1]()
        with torch.no_grad():
            for start in (0, 2, 4):
                other(records[start : start + 2])
    moved = dict(build().named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, other.get_buffer(name), rtol=1e-5, atol=1e-6)
        assert "running_mean" not in name or not torch.equal(buffer, moved[name]), name


def job(rank: int, architecture: str) -> dict[str, torch.Tensor]:
    model = build(MODEL__META_ARCHITECTURE=architecture, **HELD)
    wrapper = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    with d2.EventStorage():
        losses, backward = in_parts(model, 1, wrapper)(batch(6)[3 * rank : 3 * rank + 3])
        backward()
    return {"loss": losses["loss_detcon"]} | gradients(model)


@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_parts_of_two_processes_are_one_big_batch(tmp_path: Path, architecture):
    results = run_processes(job, 2, tmp_path, architecture)
    model = build(MODEL__META_ARCHITECTURE=architecture, **HELD)
    with d2.EventStorage():
        loss = one_go(model, batch(6))["loss_detcon"].detach()
    torch.testing.assert_close((results[0].pop("loss") + results[1].pop("loss")) / 2, loss, rtol=1e-5, atol=1e-6)
    for found in results:
        assert_same_gradients(found, gradients(model), 1e-5)


def test_training_in_parts_runs_resumes_and_logs(photos, tmp_path):
    extra = {"DETCON__MICRO_BATCH": 2, "SOLVER__CHECKPOINT_PERIOD": 2, "SOLVER__AMP__ENABLED": True}
    whole = run(arguments(tiny_opts(photos, tmp_path / "one", **extra)))
    assert whole.iter == 4
    for name in ("one", "two"):
        (tmp_path / name).mkdir(exist_ok=True)
    first = arguments(tiny_opts(photos, tmp_path / "two", **extra))
    trainer = DetConTrainer(*setup_pretraining(first))
    trainer.max_iter = 2
    trainer.resume_or_load(resume=False)
    trainer.train()
    resumed = run(first, resume=True)
    torch.testing.assert_close(resumed.network.state_dict(), whole.network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("size", [3, -1])
def test_a_size_that_does_not_divide_the_batch_is_refused(photos, tmp_path, size):
    with pytest.raises(ValueError, match=r"DETCON.MICRO_BATCH is -?\d; expected 0, or a divisor of the 4 images"):
        DetConTrainer(*setup_pretraining(arguments(tiny_opts(photos, tmp_path, DETCON__MICRO_BATCH=size))))
