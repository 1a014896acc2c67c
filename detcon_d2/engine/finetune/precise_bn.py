"""True population statistics for BatchNorm before a detector is saved or evaluated, the same on every process."""

import itertools
import logging
from collections.abc import Callable, Iterable

import torch
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from detcon_d2 import d2

logger = logging.getLogger(__name__)


class PreciseBNHook(d2.HookBase):
    """Recomputes running means and variances over fresh batches (Wu and Johnson 2021, section 3), then takes process 0's everywhere.

    It runs at the end and where it is time to evaluate, and comes before checkpointer and evaluation, so that both have the new statistics.
    """

    def __init__(self, period: int, model: nn.Module, build_batches: Callable[[], Iterable[list[dict]]], num_iter: int):
        """
        Args:
            period: iterations between two updates; 0: only at the end.
            model: not wrapped by DDP; with images it must be in training mode.
            build_batches: gives this process's training batches, at least ``num_iter``; called for each update.
            num_iter: batches a process.
        """
        self._period = period
        self._model = model
        self._build_batches = build_batches
        self._num_iter = num_iter

    def after_step(self) -> None:
        """Update if it is time."""
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            self.update()

    def update(self) -> None:
        """Recompute and broadcast the statistics; weights and optimizer stay as they are."""
        modules = get_bn_modules(self._model)
        if not modules:
            return
        logger.info("PreciseBN: statistics of %d layers from %d batches a process.", len(modules), self._num_iter)
        # What the model records about these batches is not about training.
        with d2.EventStorage():
            update_bn_stats(self._model, itertools.islice(self._build_batches(), self._num_iter), self._num_iter)
        broadcast_statistics(modules)


def broadcast_statistics(modules: Iterable[nn.Module]) -> None:
    """Give every process the running statistics of process 0.

    Args:
        modules: BatchNorm layers, in the same order in every process.
    """
    if d2.comm.get_world_size() == 1:
        return
    for module in modules:
        for statistic in (module.running_mean, module.running_var):
            torch.distributed.broadcast(statistic, src=0)
