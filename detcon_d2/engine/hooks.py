"""What happens around a step: budget, update of the target network, throughput, stop on a signal, statistics of BatchNorm."""

import itertools
import logging
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import ClassVar

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.checkpoint.budget import Budget, describe_budget
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
class BudgetHook(d2.HookBase):
    """Counts what the run costs, by what the encoders of a pretraining method are called with; the same for every method.

    It must be the first hook: its seconds are those from the start of all hooks' ``before_step``, where regions are learned, to the end of
    the optimizer's step. The scalar ``seconds`` is their sum so far. Processes count their own passes, and take the others to be as many.

    Attributes:
        budget: to count into.
        model: not wrapped by DDP; a pretraining method or a detector, of which forward passes are not counted.
        images_per_step: IMS_PER_BATCH.
    """

    budget: Budget
    model: nn.Module
    images_per_step: int
    _handles: list[torch.utils.hooks.RemovableHandle] = field(default_factory=list, init=False)
    _start: float = field(default=0.0, init=False)

    def before_train(self) -> None:
        """Watch the encoders; note the device and the parameters that are trained."""
        device, processes = next(self.model.parameters()).device, d2.comm.get_world_size()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.budget.run_on(f"{processes} x {name}")
        if isinstance(self.model, PretrainingModel):
            self.budget.facts |= trained_parameters(self.model)
            targets = [target for target, online in self.model.target_pairs() if online is self.model.encoder]
            hooks = {self.model.encoder: self._count_online} | dict.fromkeys(targets, self._count_other)
            # torch.compile would compile the hooks together with the encoder.
            self._handles = [encoder.register_forward_pre_hook(torch.compiler.disable(hook)) for encoder, hook in hooks.items()]

    def before_step(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Count the step."""
        self.budget.seconds += time.perf_counter() - self._start
        self.budget.images += self.images_per_step
        self.trainer.storage.put_scalar("seconds", self.budget.seconds, smoothing_hint=False)

    def after_train(self) -> None:
        """Leave the encoders; log the budget of a run that has ended."""
        for handle in self._handles:
            handle.remove()
        if self.trainer.iter >= self.trainer.max_iter:
            logger.info(describe_budget(self.budget.metadata()))

    def _count_online(self, encoder: nn.Module, images: tuple[torch.Tensor]) -> None:
        if torch.is_grad_enabled():
            self.budget.trained_pixels += _pixels(*images)
        # The first pass of DETCON.MICRO_BATCH is in training mode without gradients. It does not count, because the second repeats it.
        elif not encoder.training:
            self._count_other(encoder, images)

    def _count_other(self, encoder: nn.Module, images: tuple[torch.Tensor]) -> None:
        self.budget.other_pixels += _pixels(*images)


def _pixels(images: torch.Tensor) -> int:
    """Pixels of (N, 3, H, W) in all processes together."""
    return images[:, 0].numel() * d2.comm.get_world_size()


def trained_parameters(model: PretrainingModel) -> dict[str, int]:
    """Numbers of parameters with gradients: ``parameters_encoder``, and ``parameters_heads`` for all others without the online probe."""
    counts = {"encoder": 0, "heads": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("probe."):
            counts["encoder" if name.startswith("encoder.") else "heads"] += parameter.numel()
    return {f"parameters_{name}": count for name, count in counts.items()}


@dataclass(eq=False)
class ThroughputHook(d2.HookBase):
    """Logs images/s of all processes together, from the ``time`` that IterationTimer logs; it comes after that hook."""

    images_per_step: int  # IMS_PER_BATCH

    def after_step(self) -> None:
        """Log ``images_per_second``, except for the first iterations, which IterationTimer leaves out."""
        seconds = self.trainer.storage.histories().get("time")
        if seconds is not None:
            self.trainer.storage.put_scalar("images_per_second", self.images_per_step / seconds.latest())


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
