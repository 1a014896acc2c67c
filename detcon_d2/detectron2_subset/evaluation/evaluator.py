"""Running a model over a data set and evaluating its outputs."""

import datetime
import logging
import time
from typing import Any

import torch
from torch import nn

from ..missing import missing_name
from ..utils import comm
from ..utils.logger import log_every_n_seconds

__getattr__ = missing_name(__name__)

_logger = logging.getLogger("detectron2.evaluation.evaluator")
_WARMUP = 6


@torch.no_grad()
def inference_on_dataset(model: nn.Module, data_loader: Any, evaluator: Any) -> dict[str, Any]:
    """Run ``model`` on every batch, without gradients, and return the results of ``evaluator`` ({} if it has none).

    Args:
        model: it is in evaluation mode during the run, and afterwards in the mode that it had before.
        data_loader: it has a length; each item is given to the model.
        evaluator: ``reset()`` is called first, ``process(inputs, outputs)`` for each batch, and ``evaluate()`` last.

    Speed and remaining time are logged every five seconds and at the end.
    """
    batches, left_out = len(data_loader), 0
    _logger.info(f"Start inference on {batches} batches")
    evaluator.reset()
    begin, compute = time.perf_counter(), 0.0
    training = model.training
    model.eval()
    try:
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
    finally:
        model.train(training)
    _logger.info(f"{_progress(batches, batches, max(batches - left_out, 1), begin, compute)}, on {comm.get_world_size()} devices")
    return evaluator.evaluate() or {}


def _progress(done: int, batches: int, counted: int, begin: float, compute: float) -> str:
    each = (time.perf_counter() - begin) / counted
    eta = datetime.timedelta(seconds=int(each * (batches - done)))
    return f"Inference done {done}/{batches}. Model: {compute / counted:.4f} s/iter. Total: {each:.4f} s/iter. ETA={eta}"
