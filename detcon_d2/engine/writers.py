"""The line of the terminal log; JSON and TensorBoard hold every figure."""

import datetime
import logging
import time
from collections.abc import Mapping

import torch

from detcon_d2 import d2

# Scalar -> format; what a run does not have is left out.
PRETRAINING_FIGURES = {
    "loss_detcon": "loss: {:.4g}",
    "loss_probe": "probe: {:.4g}",
    "lr": "lr: {:.4g}",
    "ema_momentum": "momentum: {:.5f}",
    "images_per_second": "images/s: {:.4g}",
    "data_time": "data_time: {:.3f}",
    "learning/projection_std": "std: {:.3f}",
    "learning/retrieval_top1": "retrieval: {:.3f}",
    "learning/positive_fraction": "positives: {:.3f}",
    "learning/regions_per_view": "regions: {:.1f}",
    "probe/accuracy": "probe_acc: {:.3f}",
}
DETECTION_FIGURES = {
    "total_loss": "loss: {:.4g}",
    "loss_cls": "cls: {:.4g}",
    "loss_box_reg": "box: {:.4g}",
    "loss_mask": "mask: {:.4g}",
    "loss_rpn_cls": "rpn_cls: {:.4g}",
    "loss_rpn_loc": "rpn_loc: {:.4g}",
    "lr": "lr: {:.4g}",
    "images_per_second": "images/s: {:.4g}",
    "data_time": "data_time: {:.3f}",
}


class DetConMetricPrinter(d2.EventWriter):
    """Losses, learning rate, images/s, data time and the figures of the job in one line.

    Of pretraining's, std near 0 is collapse, near 1 healthy; retrieval is the share of regions whose nearest target in the other view is
    their own.
    """

    def __init__(self, max_iter: int, window: int = 20, figures: Mapping[str, str] = PRETRAINING_FIGURES):
        """
        Args:
            max_iter: for the remaining time.
            window: iterations over which noisy figures are smoothed.
            figures: scalar of the event storage -> its format, in the order of the line; those that a run lacks are left out.
        """
        self._figures = figures
        self._max_iter = max_iter
        self._window = window
        self._logger = logging.getLogger("detcon_d2")
        self._last: tuple[int, float] | None = None

    def write(self) -> None:
        """Log the line of the last iteration with a loss, once."""
        storage = d2.get_event_storage()
        latest = storage.latest_with_smoothing_hint(self._window)
        # Writers are called once more when the run ends, also when it failed: only an iteration with a loss, not written yet, is news.
        iteration = latest["total_loss"][1] if "total_loss" in latest else None
        if iteration is None or (self._last is not None and iteration == self._last[0]):
            return
        parts = [f"eta: {self._eta(iteration)}", f"iter: {iteration + 1}/{self._max_iter}"]
        parts += [text.format(latest[name][0]) for name, text in self._figures.items() if name in latest]
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self._logger.info("  ".join(parts))

    def _eta(self, iteration: int) -> str:
        # From wall-clock time between writes, so that checkpoints and hooks count too.
        now, last = time.perf_counter(), self._last
        self._last = (iteration, now)
        if last is None:
            return "n/a"
        seconds = (now - last[1]) / (iteration - last[0]) * (self._max_iter - iteration - 1)
        return str(datetime.timedelta(seconds=int(seconds)))
