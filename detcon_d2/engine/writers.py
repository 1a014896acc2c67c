"""The line of the terminal's log. ``metrics.json`` and TensorBoard hold every metric."""

import datetime
import logging
import time
from collections.abc import Mapping

import torch

from detcon_d2 import d2

logger = logging.getLogger("detcon_d2")
_WINDOW = 20
"""Iterations over whose median noisy metrics are smoothed, as in Detectron2's own line."""

# Scalar of the event storage -> its short name and format, in the order of the line.
_FORMATS = {
    "loss_cls": "cls: {:.4g}",
    "loss_box_reg": "box: {:.4g}",
    "loss_mask": "mask: {:.4g}",
    "loss_rpn_cls": "rpn_cls: {:.4g}",
    "loss_rpn_loc": "rpn_loc: {:.4g}",
    "loss_probe": "probe: {:.4g}",
    "lr": "lr: {:.4g}",
    "ema_momentum": "momentum: {:.5f}",
    "images_per_second": "images/s: {:.4g}",
    "data_time": "data_time: {:.3f}",
    "learning/projection_std": "std: {:.3f}",
    "learning/retrieval_top1": "retrieval: {:.3f}",
    "learning/positive_fraction": "positives: {:.3f}",
    "learning/regions_per_view": "regions: {:.1f}",
    "learning/regions_in_pixels": "in_pixels: {:.1f}",
    "learning/lost_regions": "lost: {:.3f}",
    "learning/constant_views": "constant: {:.3f}",
    "probe/accuracy": "probe_acc: {:.3f}",
}


def format_metrics(values: Mapping[str, float]) -> list[str]:
    """The metrics of the line, for example ``["loss: 3.1", "lr: 0.02", "std: 0.911"]``.

    "loss" is the only ``loss_*``, not counting ``loss_probe``. If there are several, it is ``total_loss``, and each of them follows.

    Args:
        values: scalar of the event storage, ``total_loss`` among them -> value. Scalars with a short name come in a fixed order; other
            ``loss_*`` and ``learning/*`` follow under their own names; everything else is left out.
    """
    losses = [name for name in values if name.startswith("loss_") and name != "loss_probe"]
    main = losses[0] if len(losses) == 1 else "total_loss"
    others = [name for name in values if name.startswith(("loss_", "learning/")) and name not in _FORMATS and name != main]
    return [
        f"loss: {values[main]:.4g}",
        *(text.format(values[name]) for name, text in _FORMATS.items() if name in values and name != main),
        *(f"{name.removeprefix('learning/')}: {values[name]:.4g}" for name in others),
    ]


class DetConMetricPrinter(d2.EventWriter):
    """Writes remaining time, iteration of ``max_iter``, :func:`format_metrics` and, with CUDA, the largest memory in one line."""

    def __init__(self, max_iter: int):
        self._max_iter = max_iter
        self._last: tuple[int, float] | None = None
        self._checks_loss = True

    def write(self) -> None:
        """Log the line of the last iteration with a loss, once."""
        latest = d2.get_event_storage().latest_with_smoothing_hint(_WINDOW)
        # after_train() calls writers again, even after a failure: skip iterations that are already written or have no loss.
        iteration = latest["total_loss"][1] if "total_loss" in latest else None
        if iteration is None or (self._last is not None and iteration == self._last[0]):
            return
        parts = [f"eta: {self._eta(iteration)}", f"iter: {iteration + 1}/{self._max_iter}"]
        parts += format_metrics({name: value for name, (value, _) in latest.items()})
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        logger.info("  ".join(parts))
        self._warn_of_no_loss()

    def _warn_of_no_loss(self) -> None:
        """Once, if every loss of every iteration until the first line was exactly 0: then nothing is learned."""
        histories = d2.get_event_storage().histories()
        losses = [name for name in histories if name.startswith("loss_") and name != "loss_probe"]
        if self._checks_loss and losses and not any(value for name in losses for value, _ in histories[name].values()):
            logger.warning(
                "%s of all iterations so far is exactly 0, so nothing is learned. Are there regions (or objects), and are they in both "
                "views? Look at them with tools/visualize_views.py, and at DETCON.MASKS, DETCON.VIEWS and DETCON.NUM_SAMPLES.",
                " + ".join(losses),
            )
        self._checks_loss = False

    def _eta(self, iteration: int) -> str:
        # Wall-clock time between two lines includes checkpoints and hooks.
        now, last = time.perf_counter(), self._last
        self._last = (iteration, now)
        if last is None:
            return "n/a"
        seconds = (now - last[1]) / (iteration - last[0]) * (self._max_iter - iteration - 1)
        return str(datetime.timedelta(seconds=int(seconds)))
