"""Evaluators, the loop around them, and what is done with results."""

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn


def counter(backend, results=None, log=None):
    """An evaluator that notes its calls."""
    log = [] if log is None else log

    class Counter(backend.get("evaluation").DatasetEvaluator):
        calls = log

        def reset(self):
            log.append("reset")

        def process(self, inputs, outputs):
            log.append((inputs, outputs))

        def evaluate(self):
            log.append("evaluate")
            return results

    return Counter()


class Spy(nn.Module):
    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, batch):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return [2 * x for x in batch]


def test_every_batch_is_processed_between_reset_and_evaluate(backend):
    evaluator = counter(backend, {"task": {"score": 1.0}})
    results = backend.get("evaluation").inference_on_dataset(Spy(), [[1, 2], [3]], evaluator)
    assert evaluator.calls == ["reset", ([1, 2], [2, 4]), ([3], [6]), "evaluate"]
    assert results == {"task": {"score": 1.0}}


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_is_in_evaluation_mode_without_gradients_and_goes_back(backend, mode):
    model = Spy().train(mode)
    backend.get("evaluation").inference_on_dataset(model, [[1]], counter(backend))
    assert model.modes == [(False, False)]
    assert model.training == mode


def test_the_mode_comes_back_after_an_error(subset):
    model = Spy()
    with pytest.raises(RuntimeError, match="boom"), subset.get("evaluation").inference_context(model):
        assert not model.training
        raise RuntimeError("boom")
    assert model.training


def test_functions_serve_as_models_and_no_results_are_an_empty_dict(backend):
    evaluation = backend.get("evaluation")
    assert evaluation.inference_on_dataset(lambda x: x, [[1]], counter(backend)) == {}
    assert evaluation.inference_on_dataset(Spy(), [[1]], None) == {}


def test_several_evaluators_see_the_same_and_their_results_are_merged(backend):
    log = []
    evaluators = [counter(backend, {"a": 1}, log), counter(backend, None, log), counter(backend, {"b": 2}, log)]
    results = backend.get("evaluation").inference_on_dataset(Spy(), [[1]], evaluators)
    assert results == OrderedDict(a=1, b=2)
    assert log == ["reset"] * 3 + [([1], [2])] * 3 + ["evaluate"] * 3


def test_two_results_of_one_name_are_refused(backend):
    evaluators = backend.get("evaluation").DatasetEvaluators([counter(backend, {"a": 1}), counter(backend, {"a": 2})])
    with pytest.raises(AssertionError, match=r"same key.*a"):
        evaluators.evaluate()


def test_speed_and_remaining_batches_are_logged(backend, log_lines):
    lines = log_lines("detectron2.evaluation.evaluator")
    backend.get("evaluation").inference_on_dataset(Spy(), [[1]] * 9, counter(backend))
    assert lines[0] == "Start inference on 9 batches"
    assert any("/9" in line for line in lines[1:]) or any("Total inference time" in line for line in lines)
    assert "on 1 devices" in lines[-1]


def test_progress_is_logged_without_a_line_for_every_batch(subset, log_lines):
    lines = log_lines("detectron2.evaluation.evaluator")
    subset.get("evaluation").inference_on_dataset(Spy(), [[1]] * 50, counter(subset))
    assert len(lines) <= 3
    assert "Inference done 50/50" in lines[-1]
    assert "ETA=0:00:00" in lines[-1]


def csv(backend, log_lines, results):
    lines = log_lines("detectron2.evaluation.testing")
    backend.get("evaluation").print_csv_format(results)
    return lines


def test_csv_lines_hold_the_main_metrics_with_four_decimals(backend, log_lines):
    results = OrderedDict(bbox={"AP": 1.23456, "AP50": 2.0, "AP-dog": 4.0}, segm={"AP": math.nan}, speed=3.5)
    assert csv(backend, log_lines, results) == [
        "copypaste: Task: bbox",
        "copypaste: AP,AP50",
        "copypaste: 1.2346,2.0000",
        "copypaste: Task: segm",
        "copypaste: AP",
        "copypaste: nan",
        "copypaste: speed=3.5",
    ]


def test_nested_results_become_flat(backend):
    flatten = backend.get("evaluation.testing").flatten_results_dict
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 4}) == {"a/b": 1, "a/c/d": 2, "e": 4}
    assert flatten({}) == {}
