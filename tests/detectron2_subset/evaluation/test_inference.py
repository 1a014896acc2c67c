"""The loop over a data set, and the printing of results."""

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn


class Spy(nn.Module):
    """Doubles its inputs, and records its mode."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, batch):
        self.modes.append((self.training, torch.is_grad_enabled()))
        if batch == ["bad"]:
            raise RuntimeError("boom")
        return [2 * x for x in batch]


class Recorder:
    """An evaluator that records its calls."""

    def __init__(self, results=None):
        self.results, self.calls = results, []

    def reset(self):
        self.calls.append("reset")

    def process(self, inputs, outputs):
        self.calls.append((inputs, outputs))

    def evaluate(self):
        self.calls.append("evaluate")
        return self.results


def recorder(backend, results=None):
    """A Recorder; Detectron2 wants its base class."""
    base = backend.get("evaluation").DatasetEvaluator if backend.name == "detectron2" else object
    return type("Evaluator", (Recorder, base), {})(results)


@pytest.mark.parametrize("results", [{"task": {"score": 1.0}}, None])
def test_every_batch_is_processed_between_reset_and_evaluate(backend, results):
    evaluator = recorder(backend, results)
    found = backend.get("evaluation").inference_on_dataset(Spy(), [[1, 2], [3]], evaluator)
    assert evaluator.calls == ["reset", ([1, 2], [2, 4]), ([3], [6]), "evaluate"] and found == (results or {})


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_evaluates_without_gradients_and_returns_to_its_mode(backend, mode):
    model = Spy().train(mode)
    backend.get("evaluation").inference_on_dataset(model, [[1]], recorder(backend))
    assert model.modes == [(False, False)] and model.training == mode


def test_the_subset_restores_the_mode_after_an_error(subset):
    model = Spy()
    with pytest.raises(RuntimeError, match="boom"):
        subset.get("evaluation").inference_on_dataset(model, [["bad"]], recorder(subset))
    assert model.training


def test_csv_lines_have_the_main_metrics_with_four_decimals(backend, log_lines):
    lines = log_lines("detectron2.evaluation.testing")
    backend.get("evaluation").print_csv_format(OrderedDict(bbox={"AP": 1.23456, "AP50": 2.0, "AP-dog": 4.0}, segm={"AP": math.nan}))
    tasks = [("bbox", "AP,AP50", "1.2346,2.0000"), ("segm", "AP", "nan")]
    assert lines == [f"copypaste: {text}" for task, *rest in tasks for text in (f"Task: {task}", *rest)]
