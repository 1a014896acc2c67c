"""What happens after a step: update of the target network, throughput, stop on a signal, statistics of BatchNorm."""

import itertools
import logging
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import ClassVar

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.engine.generators import kept_generators
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.ema import ema_momentum

fvcore_precise_bn = d2.import_quietly("fvcore.nn.precise_bn")
logger = logging.getLogger(__name__)


@dataclass(eq=False)
class EMAHook(d2.HookBase):
    """Moves the target network after each optimizer step, with the momentum of that step (method.md, "Networks") or, where the method has
    an ``ema_lead``, of a later one.

    It comes after the optimizer's step and before the checkpointer, so that a checkpoint holds the target of its own iteration.

    Attributes:
        model: not wrapped by DDP.
        base_momentum: tau_0.
        max_iter: T.
        schedule: DETCON.EMA.SCHEDULE.
    """

    model: PretrainingModel
    base_momentum: float
    max_iter: int
    schedule: str = "cosine"

    def after_step(self) -> None:
        """Update the target and log the momentum."""
        base = self.base_momentum
        step = self.trainer.iter + self.model.ema_lead
        momentum = base if self.schedule == "constant" else ema_momentum(step, self.max_iter, base)
        self.model.update_target(momentum)
        self.trainer.storage.put_scalar("ema_momentum", momentum, smoothing_hint=False)


@dataclass(eq=False)
class StepHook(d2.HookBase):
    """Tells a method the iteration and the epoch before each step, and when the optimizer's step is done.

    Attributes:
        model: not wrapped by DDP.
        epoch_length: iterations per epoch.
    """

    model: PretrainingModel
    epoch_length: float

    def before_step(self) -> None:
        """Start the step of the method."""
        self.model.start_step(self.trainer.iter, self.trainer.iter / self.epoch_length)

    def after_step(self) -> None:
        """End the step of the method."""
        self.model.end_step()


@dataclass(eq=False)
class ThroughputHook(d2.HookBase):
    """Logs images/s of all processes together, from the ``time`` that IterationTimer logs; it comes after that hook."""

    images_per_step: int  # IMS_PER_BATCH

    def after_step(self) -> None:
        """Log ``images_per_second``, except for the first iterations, which IterationTimer leaves out."""
        time = self.trainer.storage.histories().get("time")
        if time is not None:
            self.trainer.storage.put_scalar("images_per_second", self.images_per_step / time.latest())


@dataclass(eq=False)
class StopOnSignalHook(d2.HookBase):
    """On SIGTERM or SIGUSR1, which schedulers send before they kill a job, or SIGINT (Ctrl-C): finish the iteration, save, exit.

    It must be the last hook. A second SIGINT interrupts at once, without saving. The signal may reach only one process. The trainer's step
    combines ``stop_requested`` of all processes to ``stop_agreed``, so that all of them stop after the same iteration.
    """

    SIGNALS: ClassVar = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    checkpointer: "d2.DetectionCheckpointer"
    _previous: dict[int, object] = field(default_factory=dict, init=False)
    _interrupted: bool = field(default=False, init=False)

    def before_train(self) -> None:
        """Handle the signals."""
        self._previous = {number: signal.signal(number, self._request) for number in self.SIGNALS}

    def after_step(self) -> None:
        """Save and exit if a stop was agreed."""
        if self.trainer.stop_agreed and self.trainer.iter + 1 < self.trainer.max_iter:
            self.checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
            d2.comm.synchronize()
            message = f"Stopped by a signal after iteration {self.trainer.iter}; continue with --resume."
            raise SystemExit(message if d2.comm.is_main_process() else 1)

    def after_train(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            signal.default_int_handler(number, frame)
        self._interrupted |= number == signal.SIGINT
        self.trainer.stop_requested = True


@dataclass(eq=False)
class PreciseBNHook(d2.HookBase):
    """Recomputes running means and variances over fresh batches (Wu and Johnson 2021, section 3); all processes use those of process 0.

    It runs before each evaluation and after the last iteration. It must come before the checkpointer and the evaluation, so that both have
    the new statistics.

    Attributes:
        period: iterations between two updates; 0: only after the last iteration.
        model: not wrapped by DDP, in training mode.
        build_batches: returns at least ``num_iter`` training batches of this process; called for each update.
        num_iter: batches per process.
    """

    period: int
    model: nn.Module
    build_batches: Callable[[], Iterable[list[dict]]]
    num_iter: int

    def after_step(self) -> None:
        """Update after ``period`` iterations and after the last one."""
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self.period > 0 and done % self.period == 0):
            self.update()

    def update(self) -> None:
        """Recompute and broadcast the statistics; weights and optimizer do not change."""
        modules = fvcore_precise_bn.get_bn_modules(self.model)
        if not modules:
            return
        logger.info("PreciseBN: statistics of %d layers from %d batches per process.", len(modules), self.num_iter)
        # A separate storage: what the model logs about these batches does not belong to the training.
        with d2.EventStorage(), kept_generators():
            fvcore_precise_bn.update_bn_stats(self.model, itertools.islice(self.build_batches(), self.num_iter), self.num_iter)
        if d2.comm.get_world_size() > 1:
            for module in modules:
                for statistic in (module.running_mean, module.running_var):
                    torch.distributed.broadcast(statistic, src=0)
