"""Precise BatchNorm as a hook."""

import pytest
import torch
from torch import nn

from tests.detectron2_subset.engine.test_hooks import train


class Batches:
    """Endless batches (2, 3, 2, 2); number n holds n and n + 1."""

    def __init__(self):
        self.drawn = self.started = 0

    def __iter__(self):
        self.started += 1
        while True:
            self.drawn += 1
            yield torch.full((2, 3, 2, 2), float(self.drawn)) + torch.arange(2.0).view(2, 1, 1, 1)


class Normed(nn.Module):
    """A BatchNorm that records a scalar, as detectors do."""

    def __init__(self, backend):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self._storage = backend.get("utils.events").get_event_storage

    def forward(self, x):
        self._storage().put_scalar("inner", 1.0)
        return self.bn(x)


@pytest.mark.parametrize(("period", "expected"), [(3, [0, 0, 4, 4, 4, 8, 12]), (0, [0] * 6 + [4]), (7, [0] * 6 + [4])])
def test_statistics_are_updated_every_period_and_after_the_last_iteration(backend, period, expected):
    batches, drawn = Batches(), []

    class Watch(backend.get("engine").HookBase):
        def after_step(self):
            drawn.append(batches.drawn)

    train(backend, [backend.get("engine.hooks").PreciseBN(period, Normed(backend), batches, 4), Watch()])
    assert drawn == expected
    assert batches.started == 1


def test_statistics_are_mean_and_variance_of_all_batches_together(backend):
    model = Normed(backend)
    backend.get("engine.hooks").PreciseBN(0, model, Batches(), 4).update_stats()
    data = torch.cat([x for x, _ in zip(Batches(), range(4), strict=False)])
    torch.testing.assert_close(model.bn.running_mean, data.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(model.bn.running_var, data.var(dim=(0, 2, 3), unbiased=False))
    assert model.bn.momentum == 0.1
    assert model.training


def test_what_the_model_records_meanwhile_is_not_recorded_in_training(backend):
    trainer = train(backend, [backend.get("engine.hooks").PreciseBN(2, Normed(backend), Batches(), 2)])
    assert trainer.storage.latest() == {}


@pytest.mark.parametrize("make", [lambda backend: nn.Linear(1, 1), lambda backend: Normed(backend).eval()])
def test_models_without_batchnorm_in_training_mode_are_left_alone(backend, make):
    batches = Batches()
    backend.get("engine.hooks").PreciseBN(0, make(backend), batches, 4).update_stats()
    assert batches.drawn == 0


def test_frozen_layers_keep_their_statistics(backend):
    frozen = backend.get("layers").FrozenBatchNorm2d(3)
    model = nn.Sequential(frozen, nn.BatchNorm2d(3))
    backend.get("engine.hooks").PreciseBN(0, model, Batches(), 2).update_stats()
    assert frozen.running_mean.tolist() == [0, 0, 0]
    assert model[1].running_mean[0] > 1


def test_a_loader_that_ends_is_refused(subset):
    hook = subset.get("engine.hooks").PreciseBN(0, Normed(subset), [torch.zeros(2, 3, 2, 2)], 4)
    with pytest.raises(AssertionError, match="4 iterations"):
        hook.update_stats()
