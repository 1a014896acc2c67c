"""Hooks in the order of the trainer: momentum of the step, throughput, orderly stop."""

import logging
import os
import signal

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.engine import EMAHook, StopOnSignalHook, ThroughputHook
from detcon_d2.engine.writers import DetConMetricPrinter
from detcon_d2.modeling import ema_momentum


class Model:
    def __init__(self):
        self.momenta = []

    def update_target(self, momentum: float) -> None:
        self.momenta.append(momentum)


class Saver:
    def __init__(self):
        self.saved = []

    def save(self, name: str, **kwargs) -> None:
        self.saved.append((name, kwargs))


class Trainer(d2.TrainerBase):
    stop_requested = stop_agreed = False

    def __init__(self, on_step=lambda trainer: None):
        super().__init__()
        self._on_step = on_step

    def run_step(self) -> None:
        self._on_step(self)
        self.storage.put_scalar("time", 0.5)
        self.stop_agreed = self.stop_requested


def test_ema_hook_uses_the_momentum_of_its_iteration():
    model, trainer = Model(), Trainer()
    trainer.register_hooks([EMAHook(model, 0.9, 4)])
    trainer.train(1, 4)
    assert model.momenta == [ema_momentum(t, 4, 0.9) for t in (1, 2, 3)]
    assert model.momenta == sorted(model.momenta)


def test_throughput_is_images_over_time():
    trainer = Trainer()
    trainer.register_hooks([ThroughputHook(32)])
    trainer.train(0, 1)
    assert trainer.storage.latest()["images_per_second"][0] == 64


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_finishes_the_iteration_saves_and_stops(number):
    saver = Saver()
    trainer = Trainer(lambda t: os.kill(os.getpid(), number) if t.iter == 2 else None)
    before = signal.getsignal(number)
    trainer.register_hooks([StopOnSignalHook(saver)])
    with pytest.raises(SystemExit, match="after iteration 2"):
        trainer.train(0, 10)
    assert saver.saved == [("model_0000002", {"iteration": 2})]
    assert signal.getsignal(number) is before


def test_metric_line_names_every_figure(caplog):
    figures = {"total_loss": 3.5, "loss_detcon": 3.0, "lr": 0.1, "ema_momentum": 0.99, "images_per_second": 9.0, "data_time": 0.2}
    figures |= {f"learning/{name}": 0.5 for name in ("projection_std", "retrieval_top1", "positive_fraction", "regions_per_view")}
    with d2.EventStorage(6) as storage, caplog.at_level(logging.INFO, logger="detcon_d2"):
        storage.put_scalars(**figures)
        logging.getLogger("detcon_d2").propagate = True
        DetConMetricPrinter(max_iter=10).write()
    text = caplog.records[-1].getMessage()
    for part in (
        "iter: 7/10",
        "loss: 3",
        "lr: 0.1",
        "momentum: 0.99000",
        "images/s: 9",
        "data_time: 0.200",
        "std: 0.500",
        "retrieval: 0.500",
    ):
        assert part in text
    assert torch.cuda.is_available() or "max_mem" not in text
