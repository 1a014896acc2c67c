"""Hooks: timing, writing, checkpoints, learning rate, evaluation and precise BatchNorm."""

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as _TorchLRScheduler

from ..evaluation.testing import flatten_results_dict
from ..missing import missing_name
from ..solver import LRMultiplier
from ..utils import comm
from ..utils.events import EventStorage, EventWriter
from .train_loop import HookBase

__getattr__ = missing_name(__name__)

_logger = logging.getLogger("detectron2.engine.hooks")


class IterationTimer(HookBase):
    """Records the seconds of each iteration as "time", and logs the sum at the end. Register it first.

    An iteration is the time from its ``before_step`` to its ``after_step``; what the other hooks take is counted apart.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        """``warmup_iter`` - 1 iterations at the beginning, which are slow, are left out."""
        self._warmup_iter = warmup_iter
        self._start, self._times = time.perf_counter(), []

    def before_train(self) -> None:
        """Start the clock of the whole training."""
        self._start, self._times = time.perf_counter(), []

    def before_step(self) -> None:
        """Start the clock of the iteration."""
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        """Record the iteration's time."""
        now = time.perf_counter()
        if self.trainer.iter - self.trainer.start_iter + 1 < self._warmup_iter:
            self._start = now
            return
        self._times.append(now - self._step_start)
        self.trainer.storage.put_scalars(time=self._times[-1])

    def after_train(self) -> None:
        """Log iterations, seconds an iteration, and the time spent in other hooks."""
        total, steps, count = time.perf_counter() - self._start, sum(self._times), len(self._times)
        if count:
            _logger.info(f"Overall training speed: {count} iterations in {_clock(steps)} ({steps / count:.4f} s / it)")
        _logger.info(f"Total training time: {_clock(total)} ({_clock(total - steps)} on hooks)")


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Calls ``write`` of each writer every ``period`` iterations and at the end, where it also closes them."""

    def __init__(self, writers: list[EventWriter], period: int = 20) -> None:
        self._writers, self._period = writers, period

    def after_step(self) -> None:
        """Write if it is time."""
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        """Write what other hooks recorded last, and close."""
        for writer in self._writers:
            writer.write()
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer as a hook: saves every ``period`` iterations, and "model_final" at the end."""

    def before_train(self) -> None:
        """Take the end of training from the trainer."""
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        """Save if it is time."""
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Records the learning rate as "lr" and steps a scheduler after every iteration."""

    def __init__(self, optimizer: Optimizer | None = None, scheduler: _TorchLRScheduler | ParamScheduler | None = None) -> None:
        """Without arguments the trainer's ``optimizer`` and ``scheduler``; a ParamScheduler multiplies the initial learning rates."""
        self._optimizer, self._scheduler = optimizer, scheduler

    def before_train(self) -> None:
        """Find optimizer, scheduler and the group whose learning rate is recorded."""
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(self._optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1)
        self._best_param_group_id = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: Optimizer) -> int:
        """The group that stands for all: the largest, or, if each has one parameter, the first with the most common learning rate."""
        groups = optimizer.param_groups
        common = Counter(group["lr"] for group in groups)
        keys = [(len(group["params"]), common[group["lr"]] if len(group["params"]) == 1 else 0) for group in groups]
        return keys.index(max(keys))

    def after_step(self) -> None:
        """Record this iteration's learning rate and go to the next."""
        lr = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    @property
    def scheduler(self) -> _TorchLRScheduler | ParamScheduler:
        """The scheduler given, or the trainer's."""
        return self._scheduler or self.trainer.scheduler

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's state."""
        return self.scheduler.state_dict() if isinstance(self.scheduler, _TorchLRScheduler) else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the scheduler's state back."""
        if isinstance(self.scheduler, _TorchLRScheduler):
            self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Calls an evaluation function periodically and records what it returns."""

    def __init__(self, eval_period: int, eval_function: Callable[[], Mapping[str, Any] | None], eval_after_train: bool = True) -> None:
        """
        Args:
            eval_period: iterations between evaluations; 0: only at the end.
            eval_function: returns a nested dict of numbers, recorded under names joined by "/", or None. Every process calls it.
            eval_after_train: evaluate after the last iteration, unless training was cut short.
        """
        self._period, self._function, self._eval_after_train = eval_period, eval_function, eval_after_train

    def after_step(self) -> None:
        """Evaluate if it is time; the last iteration is left to :meth:`after_train`."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        """Evaluate at the end of a training that reached it."""
        if self._eval_after_train and self.trainer.iter >= self.trainer.max_iter:
            self._evaluate()
        # The function usually holds the trainer.
        del self._function

    def _evaluate(self) -> None:
        results = self._function()
        if results:
            assert isinstance(results, Mapping), f"The evaluation function must return a dict, got {results!r}."
            try:
                scalars = {name: float(value) for name, value in flatten_results_dict(results).items()}
            except (TypeError, ValueError) as error:
                raise ValueError(f"The evaluation function must return a nested dict of numbers, got {results!r}.") from error
            self.trainer.storage.put_scalars(smoothing_hint=False, **scalars)
        # Processes without work must not run ahead into the next iteration's collectives.
        comm.synchronize()


class PreciseBN(HookBase):
    """Replaces the running statistics of BatchNorm by their averages over many batches with the weights as they are (arXiv 2105.07576).

    Register it before the checkpointer and the evaluation. Layers not in training mode, and frozen ones, are left alone.
    """

    def __init__(self, period: int, model: nn.Module, data_loader: Iterable, num_iter: int) -> None:
        """
        Args:
            period: iterations between updates; 0: only after the last iteration, where there is always one.
            model: called with what the loader yields, in the mode that it is in.
            data_loader: is iterated on from update to update; AssertionError if it ends.
            num_iter: number of batches.
        """
        self._period, self._model, self._data_loader, self._num_iter = period, model, data_loader, num_iter
        self._batches: Iterator | None = None
        if not get_bn_modules(model):
            _logger.info("PreciseBN does nothing: the model has no BatchNorm in training mode.")

    def after_step(self) -> None:
        """Update if it is time, or the last iteration."""
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            self.update_stats()

    def update_stats(self) -> None:
        """Update the statistics now."""
        if not get_bn_modules(self._model):
            return
        if self._batches is None:
            self._batches = iter(self._data_loader)
        _logger.info(f"Running precise-BN for {self._num_iter} iterations ...")
        # What the model records meanwhile belongs to no iteration of the training.
        with EventStorage():
            update_bn_stats(self._model, self._batches, self._num_iter)
