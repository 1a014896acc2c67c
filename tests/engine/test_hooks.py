"""Hooks: momentum of the step, throughput, stop on a signal."""

import os
import signal
from unittest.mock import Mock

import pytest

from detcon_d2 import d2
from detcon_d2.engine.hooks import EMAHook, StopOnSignalHook, ThroughputHook
from detcon_d2.modeling import ema_momentum


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
    model, trainer = Mock(), Trainer()
    trainer.register_hooks([EMAHook(model, 0.9, 4)])
    trainer.train(1, 4)
    momenta = [call.args[0] for call in model.update_target.call_args_list]
    assert momenta == [ema_momentum(t, 4, 0.9) for t in (1, 2, 3)] == sorted(momenta)


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
