"""Population statistics for BatchNorm before a detector is saved or evaluated, the same in every process."""

import itertools
import logging
from collections.abc import Callable, Iterable

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.engine.generators import kept_generators

fvcore_precise_bn = d2.import_quietly("fvcore.nn.precise_bn")
logger = logging.getLogger(__name__)


class PreciseBNHook(d2.HookBase):
    """Recomputes running means and variances over fresh batches (Wu and Johnson 2021, section 3); all processes use those of process 0.

    It runs before each evaluation and after the last iteration. It must come before the checkpointer and the evaluation, so that both have
    the new statistics.
    """

    def __init__(self, period: int, model: nn.Module, build_batches: Callable[[], Iterable[list[dict]]], num_iter: int):
        """
        Args:
            period: iterations between two updates; 0: only after the last iteration.
            model: not wrapped by DDP, in training mode.
            build_batches: returns at least ``num_iter`` training batches of this process; called for each update.
            num_iter: batches per process.
        """
        self._period = period
        self._model = model
        self._build_batches = build_batches
        self._num_iter = num_iter

    def after_step(self) -> None:
        """Update after ``period`` iterations and after the last one."""
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            self.update()

    def update(self) -> None:
        """Recompute and broadcast the statistics; weights and optimizer do not change."""
        modules = fvcore_precise_bn.get_bn_modules(self._model)
        if not modules:
            return
        logger.info("PreciseBN: statistics of %d layers from %d batches per process.", len(modules), self._num_iter)
        # A separate storage: what the model logs about these batches does not belong to the training.
        with d2.EventStorage(), kept_generators():
            fvcore_precise_bn.update_bn_stats(self._model, itertools.islice(self._build_batches(), self._num_iter), self._num_iter)
        if d2.comm.get_world_size() > 1:
            for module in modules:
                for statistic in (module.running_mean, module.running_var):
                    torch.distributed.broadcast(statistic, src=0)
