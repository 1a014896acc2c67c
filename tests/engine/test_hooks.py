"""Hooks: momentum of the step, throughput, stop on a signal, statistics of BatchNorm."""

import argparse
import os
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.engine.hooks import EMAHook, PreciseBNHook, StopOnSignalHook, ThroughputHook
from detcon_d2.modeling.ema import ema_momentum
from tests.detectors import arguments
from tests.prepared import launch


class Trainer(d2.TrainerBase):
    stop_requested = stop_agreed = False

    def __init__(self, on_step=lambda trainer: None):
        super().__init__()
        self._on_step = on_step

    def run_step(self) -> None:
        self._on_step(self)
        self.storage.put_scalar("time", 0.5)
        self.stop_agreed = self.stop_requested


@pytest.mark.parametrize("lead", [0, 1])
def test_ema_hook_uses_the_momentum_of_its_iteration_or_of_the_next(lead):
    model, trainer = Mock(ema_lead=lead), Trainer()
    trainer.register_hooks([EMAHook(model, 0.9, 4)])
    trainer.train(1, 4)
    momenta = [call.args[0] for call in model.update_target.call_args_list]
    assert momenta == [ema_momentum(t + lead, 4, 0.9) for t in (1, 2, 3)] == sorted(momenta)


def test_throughput_is_images_over_time():
    trainer = Trainer()
    trainer.register_hooks([ThroughputHook(32)])
    trainer.train(0, 1)
    assert trainer.storage.latest()["images_per_second"][0] == 64


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_finishes_the_iteration_saves_and_stops(number):
    saver = Mock()
    trainer = Trainer(lambda t: os.kill(os.getpid(), number) if t.iter == 2 else None)
    before = signal.getsignal(number)
    trainer.register_hooks([StopOnSignalHook(saver)])
    with pytest.raises(SystemExit, match="after iteration 2"):
        trainer.train(0, 10)
    saver.save.assert_called_once_with("model_0000002", iteration=2)
    assert signal.getsignal(number) is before


def test_a_second_interrupt_of_the_keyboard_stops_at_once_without_saving():
    saver = Mock()
    trainer = Trainer(lambda _: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    trainer.register_hooks([StopOnSignalHook(saver)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train(0, 10)
    saver.save.assert_not_called()


def batches(rank: int, count: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(16, 3, 4, 4, generator=generator) * (rank + 1) + rank for _ in range(count)]


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).train()


def test_statistics_are_those_of_all_batches_and_nothing_else_changes():
    model, data = build_model(), batches(0)
    weight = model[0].weight.detach().clone()
    PreciseBNHook(0, model, lambda: iter(data), len(data)).update()
    values = model[0](torch.cat(data)).detach()
    torch.testing.assert_close(model[1].running_mean, values.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_var, values.var((0, 2, 3)), rtol=1e-2, atol=1e-4)
    assert model[0].weight.equal(weight) and model.training


@pytest.mark.parametrize(("period", "expected"), [(0, [6]), (2, [2, 4, 6]), (4, [4, 6])])
def test_statistics_are_recomputed_at_the_end_and_where_it_is_time_to_evaluate(period, expected, monkeypatch):
    trainer, done = Trainer(), []
    hook = PreciseBNHook(period, build_model(), list, 1)
    monkeypatch.setattr(hook, "update", lambda: done.append(trainer.iter + 1))
    trainer.register_hooks([hook])
    trainer.train(0, 6)
    assert done == expected


def test_a_model_without_batchnorm_needs_no_data():
    PreciseBNHook(0, nn.Conv2d(3, 2, 1), pytest.fail, 1).update()


def update_and_save(args: argparse.Namespace) -> None:
    rank, model = d2.comm.get_rank(), build_model()
    PreciseBNHook(0, model, lambda: batches(rank), 8).update()
    torch.save(model.state_dict(), Path(args.folder) / f"{rank}.pth")


def test_two_processes_with_other_images_end_with_the_statistics_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    launch(update_and_save, arguments([], num_gpus=2, folder=str(tmp_path)))
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    alone = build_model()
    PreciseBNHook(0, alone, lambda: batches(0), 8).update()
    torch.testing.assert_close(first["1.running_mean"], alone[1].running_mean, rtol=0, atol=0)
    other = build_model()
    PreciseBNHook(0, other, lambda: batches(1), 8).update()
    assert (other[1].running_mean - alone[1].running_mean).abs().max() > 0.1
