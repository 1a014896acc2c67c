"""Hooks for timing, writing, checkpoints, the learning rate and evaluation."""

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as _TorchLRScheduler

from ..evaluation.testing import flatten_results_dict
from ..missing import missing_name
from ..utils import comm
from ..utils.events import EventWriter
from .train_loop import HookBase

__getattr__ = missing_name(__name__)

_logger = logging.getLogger("detectron2.engine.hooks")


class IterationTimer(HookBase):
    """Records the seconds of each iteration as "time", and logs the sum at the end. It must be registered first.

    An iteration lasts from its ``before_step`` to its ``after_step``; the time of the other hooks is counted separately.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        """The first ``warmup_iter`` - 1 iterations, which are slow, are not counted."""
        self._warmup_iter = warmup_iter
        self._start, self._times = time.perf_counter(), []

    def before_train(self) -> None:
        """Start the clock of the whole training."""
        self._start, self._times = time.perf_counter(), []

    def before_step(self) -> None:
        """Start the clock of the iteration."""
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        """Record the time of the iteration."""
        now = time.perf_counter()
        if self.trainer.iter - self.trainer.start_iter + 1 < self._warmup_iter:
            self._start = now
            return
        self._times.append(now - self._step_start)
        self.trainer.storage.put_scalars(time=self._times[-1])

    def after_train(self) -> None:
        """Log the number of iterations, the seconds per iteration, and the time spent in other hooks."""
        total, steps, count = time.perf_counter() - self._start, sum(self._times), len(self._times)
        if count:
            _logger.info(f"Overall training speed: {count} iterations in {_clock(steps)} ({steps / count:.4f} s / it)")
        _logger.info(f"Total training time: {_clock(total)} ({_clock(total - steps)} on hooks)")


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Calls ``write`` of each writer every ``period`` iterations and at the end, and then closes the writers."""

    def __init__(self, writers: list[EventWriter], period: int = 20) -> None:
        self._writers, self._period = writers, period

    def after_step(self) -> None:
        """Write if the period is over or the training ends."""
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
    """The PeriodicCheckpointer of fvcore as a hook: it saves every ``period`` iterations, and "model_final" at the end."""

    def before_train(self) -> None:
        """Take the end of the training from the trainer."""
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        """Save if the period is over or the training ends."""
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Records the learning rate as "lr", and steps a scheduler after every iteration."""

    def __init__(self, optimizer: Optimizer, scheduler: _TorchLRScheduler) -> None:
        """``scheduler`` changes the learning rates of ``optimizer``; one group, which represents all groups, is recorded."""
        self._optimizer, self.scheduler = optimizer, scheduler

    def before_train(self) -> None:
        """Choose the group whose learning rate is recorded."""
        self._best_param_group_id = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: Optimizer) -> int:
        """Return the largest group or, if every group has one parameter, the first group with the most common learning rate."""
        groups = optimizer.param_groups
        common = Counter(group["lr"] for group in groups)
        keys = [(len(group["params"]), common[group["lr"]] if len(group["params"]) == 1 else 0) for group in groups]
        return keys.index(max(keys))

    def after_step(self) -> None:
        """Record the learning rate of this iteration, then go to the next."""
        lr = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scheduler."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the state of the scheduler."""
        self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Calls an evaluation function periodically and at the end, and records what it returns."""

    def __init__(self, eval_period: int, eval_function: Callable[[], Mapping[str, Any] | None]) -> None:
        """
        Args:
            eval_period: iterations between evaluations; 0: only at the end.
            eval_function: returns a nested dict of numbers, which are recorded under names joined by "/", or None. Every process calls it.
        """
        self._period, self._function = eval_period, eval_function

    def after_step(self) -> None:
        """Evaluate if the period is over; after the last iteration :meth:`after_train` evaluates."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        """Evaluate, except if the training ended early."""
        if self.trainer.iter >= self.trainer.max_iter:
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
        # Processes without work must not run ahead to the collective operations of the next iteration.
        comm.synchronize()
