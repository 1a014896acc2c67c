"""The line of the terminal: known metrics under short names in a fixed order, all others under their own."""

from unittest.mock import Mock

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.engine import writers
from detcon_d2.engine.writers import DetConMetricPrinter, format_metrics

DETCON = {"total_loss": 5.5, "loss_detcon": 3.0, "data_time": 0.2, "loss_probe": 2.5, "learning/projection_std": 0.5, "lr": 0.1}
DETCON |= {"learning/retrieval_top1": 0.25, "learning/positive_fraction": 0.75, "learning/regions_per_view": 3.14, "time": 1.0}
DETCON |= {"ema_momentum": 0.99, "images_per_second": 9.0, "probe/accuracy": 0.4}
DETECTOR = {"total_loss": 1.5, "loss_cls": 1.0, "loss_box_reg": 0.2, "loss_mask": 0.1, "loss_rpn_cls": 0.1, "loss_rpn_loc": 0.1, "lr": 0.02}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            DETCON,
            "loss: 3  probe: 2.5  lr: 0.1  momentum: 0.99000  images/s: 9  data_time: 0.200  std: 0.500  retrieval: 0.250  "
            "positives: 0.750  regions: 3.1  probe_acc: 0.400",
        ),
        (DETECTOR, "loss: 1.5  cls: 1  box: 0.2  mask: 0.1  rpn_cls: 0.1  rpn_loc: 0.1  lr: 0.02"),
        ({"loss_b": 2.0, "total_loss": 3.0, "loss_a": 1.0, "lr": 0.1}, "loss: 3  lr: 0.1  loss_b: 2  loss_a: 1"),
        ({"total_loss": 1.0, "loss_x": 1.0, "learning/queue_age": 12.34567, "bbox/AP": 3.0}, "loss: 1  queue_age: 12.35"),
    ],
    ids=["DetCon", "detector", "unknown losses", "unknown metric"],
)
def test_the_line_shows_the_metrics_of_any_method(values, line):
    assert "  ".join(format_metrics(values)) == line


def test_an_iteration_is_written_once_and_only_with_a_loss(monkeypatch):
    writer = DetConMetricPrinter(max_iter=10)
    monkeypatch.setattr(writers, "logger", logger := Mock())
    with d2.EventStorage(6) as storage:
        storage.put_scalar("lr", 0.1)
        writer.write()
        storage.put_scalars(**DETCON)
        for _ in range(2):
            writer.write()
    (line,) = logger.info.call_args.args
    assert logger.info.call_count == 1 and line.startswith("eta: n/a  iter: 7/10  loss: 3  ")
    assert torch.cuda.is_available() or "max_mem" not in line


@pytest.mark.parametrize(("losses", "warned"), [([0, 0, 0], 1), ([0, 0.5, 0], 0), ([0.5, 0, 0], 0)])
def test_a_loss_that_is_0_from_the_start_is_warned_of_once(monkeypatch, losses, warned):
    writer = DetConMetricPrinter(max_iter=100)
    monkeypatch.setattr(writers, "logger", logger := Mock())
    with d2.EventStorage() as storage:
        for storage.iter, loss in enumerate([*losses, 0, 0, 0]):
            storage.put_scalars(total_loss=loss + 1, loss_detcon=loss, loss_probe=1.0)
            if (storage.iter + 1) % 3 == 0:
                writer.write()
    assert logger.warning.call_count == warned
    assert not warned or "loss_detcon" in logger.warning.call_args.args
