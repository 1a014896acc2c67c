"""Running a model over a data set while evaluators watch."""

import contextlib
import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..utils import comm
from ..utils.logger import log_every_n_seconds

_logger = logging.getLogger("detectron2.evaluation.evaluator")
_WARMUP = 6


class DatasetEvaluator:
    """Sees all inputs and outputs of a model in one round: ``reset``, ``process`` for every batch, ``evaluate``."""

    def reset(self) -> None:
        """Begin a round."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take the inputs of one call of the model and what it returned."""

    def evaluate(self) -> dict[str, Any] | None:
        """The results of the round, usually task -> metric -> score; every process calls it, and the main one has them."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their results are merged."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        """Called in this order."""
        self._evaluators = list(evaluators)

    def reset(self) -> None:
        """Begin a round in each."""
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Pass on to each."""
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """The results of all, on the main process. AssertionError if two have the same key."""
        merged = OrderedDict()
        for evaluator in self._evaluators:
            results = evaluator.evaluate()
            if results is None or not comm.is_main_process():
                continue
            repeated = sorted(merged.keys() & results.keys())
            assert not repeated, f"Different evaluators produce results with the same key: {repeated}."
            merged.update(results)
        return merged


@contextlib.contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode for the block, and back in the mode it was in."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def inference_on_dataset(
    model: Callable[[Any], Any], data_loader: Any, evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None
) -> dict[str, Any]:
    """Run ``model`` on every batch, without gradients, and return what the evaluators make of it ({} for nothing).

    Args:
        model: a module, which is in evaluation mode meanwhile, or any function.
        data_loader: has a length; each item goes to the model.
        evaluator: one, several, or None to measure the speed only, which is logged every five seconds, with the
            remaining time, and at the end.
    """
    if evaluator is None or isinstance(evaluator, list | tuple):
        evaluator = DatasetEvaluators(evaluator or [])
    batches, done, left_out = len(data_loader), 0, 0
    _logger.info(f"Start inference on {batches} batches")
    evaluator.reset()
    begin, compute = time.perf_counter(), 0.0
    with inference_context(model) if isinstance(model, nn.Module) else contextlib.nullcontext(), torch.no_grad():
        for done, inputs in enumerate(data_loader, start=1):
            if done == min(_WARMUP, batches):
                # The first batches are slow and are not counted.
                begin, compute, left_out = time.perf_counter(), 0.0, done - 1
            start = time.perf_counter()
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            compute += time.perf_counter() - start
            evaluator.process(inputs, outputs)
            log_every_n_seconds(logging.INFO, _progress(done, batches, done - left_out, begin, compute), n=5, name=_logger.name)
    _logger.info(f"{_progress(done, batches, max(done - left_out, 1), begin, compute)}, on {comm.get_world_size()} devices")
    return evaluator.evaluate() or {}


def _progress(done: int, batches: int, counted: int, begin: float, compute: float) -> str:
    each = (time.perf_counter() - begin) / counted
    eta = datetime.timedelta(seconds=int(each * (batches - done)))
    return f"Inference done {done}/{batches}. Model: {compute / counted:.4f} s/iter. Total: {each:.4f} s/iter. ETA={eta}"
