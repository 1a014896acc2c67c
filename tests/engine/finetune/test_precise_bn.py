"""PreciseBN's statistics are the population's, at the right time, and the same on every process."""

import argparse
from pathlib import Path

import pytest
import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.engine import launch
from detcon_d2.engine.hooks import PreciseBNHook


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


class Clock(d2.TrainerBase):
    def run_step(self) -> None:
        pass


@pytest.mark.parametrize(("period", "expected"), [(0, [6]), (2, [2, 4, 6]), (4, [4, 6])])
def test_it_runs_at_the_end_and_where_it_is_time_to_evaluate(period, expected, monkeypatch):
    trainer, done = Clock(), []
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
    launch(update_and_save, argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto", folder=str(tmp_path)))
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    alone = build_model()
    PreciseBNHook(0, alone, lambda: batches(0), 8).update()
    torch.testing.assert_close(first["1.running_mean"], alone[1].running_mean, rtol=0, atol=0)
    other = build_model()
    PreciseBNHook(0, other, lambda: batches(1), 8).update()
    assert (other[1].running_mean - alone[1].running_mean).abs().max() > 0.1
