"""The hooks of the trainer: timing, writing, checkpoints, learning rate, evaluation."""

import pytest
import torch
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import CosineParamScheduler
from torch import nn

from tests.detectron2_subset.engine.test_train_loop import make_trainer


def train(backend, hooks, iterations=(0, 7)):
    """Run a trainer that only calls hooks."""
    trainer = make_trainer(backend)
    trainer.register_hooks(hooks)
    trainer.train(*iterations)
    return trainer


def sgd(*groups):
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1)) for _ in range(n)], "lr": lr} for n, lr in groups], lr=1.0)


def test_iteration_times_are_recorded_after_the_warmup(backend, log_lines):
    lines = log_lines("detectron2.engine.hooks")
    trainer = train(backend, [backend.get("engine.hooks").IterationTimer()], (10, 20))
    assert [i for _, i in trainer.storage.history("time").values()] == list(range(12, 20))
    assert lines[0].startswith("Overall training speed: 8 iterations in ")
    assert lines[1].startswith("Total training time: ")


def test_writers_write_periodically_and_at_the_end_and_are_closed(backend):
    calls = []

    class Writer(backend.get("utils.events").EventWriter):
        def write(self):
            calls.append(backend.get("utils.events").get_event_storage().iter)

        def close(self):
            calls.append("closed")

    train(backend, [backend.get("engine.hooks").PeriodicWriter([Writer()], period=3)])
    assert calls == [2, 5, 6, 7, "closed"]


def test_checkpoints_are_saved_periodically_and_at_the_end(backend, tmp_path):
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    train(backend, [backend.get("engine.hooks").PeriodicCheckpointer(checkpointer, 3, max_to_keep=1)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000005.pth", "model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert torch.load(tmp_path / "model_0000005.pth", weights_only=True)["iteration"] == 5


def test_the_learning_rate_is_recorded_before_it_changes(backend):
    optimizer = sgd((2, 0.1))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    trainer = train(backend, [backend.get("engine.hooks").LRScheduler(optimizer, scheduler)], (0, 5))
    assert [value for value, _ in trainer.storage.history("lr").values()] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert trainer.state_dict()["hooks"]["LRScheduler"]["last_epoch"] == 5


def test_a_schedule_resumes_from_its_state(backend):
    states = []
    for start in (None, {"base_lrs": [0.1], "last_epoch": 3}):
        optimizer = sgd((1, 0.1))
        scheduler = backend.get("solver").LRMultiplier(optimizer, CosineParamScheduler(1, 0), max_iter=10)
        hook = backend.get("engine.hooks").LRScheduler(optimizer, scheduler)
        if start:
            hook.load_state_dict(start)
        train(backend, [hook], (3 if start else 0, 6))
        states.append((hook.state_dict(), optimizer.param_groups[0]["lr"]))
    assert states[0] == states[1]


def test_the_largest_group_or_the_most_common_rate_is_recorded(backend):
    best = backend.get("engine.hooks").LRScheduler.get_best_param_group_id
    groups = [
        ((3, 0.1), (2, 0.2), (2, 0.2)),
        ((1, 0.1), (1, 0.2), (1, 0.2)),
        ((2, 0.1), (2, 0.2)),
        ((1, 0.3), (2, 0.2), (2, 0.1), (2, 0.1)),
    ]
    assert [best(sgd(*one)) for one in groups] == [0, 1, 0, 1]


@pytest.mark.parametrize(("period", "end", "expected"), [(3, 7, [2, 5, 7]), (3, 6, [2, 6]), (0, 4, [4])])
def test_evaluation_runs_periodically_and_once_at_the_end(backend, period, end, expected):
    calls = []

    def evaluate():
        calls.append(hook.trainer.iter)
        return {"a": {"b": 1, "c": {"d": 2}}, "e": 3.0}

    hook = backend.get("engine.hooks").EvalHook(period, evaluate)
    trainer = train(backend, [hook], (0, end))
    assert calls == expected
    assert trainer.storage.latest() == {"a/b": (1.0, end), "a/c/d": (2.0, end), "e": (3.0, end)}
    assert trainer.storage.latest_with_smoothing_hint(9) == trainer.storage.latest()


@pytest.mark.parametrize(("results", "error"), [({"a": "x"}, ValueError), ([1], AssertionError)])
def test_results_that_are_no_numbers_are_refused(backend, results, error):
    with pytest.raises(error, match=r"x|1"):
        train(backend, [backend.get("engine.hooks").EvalHook(0, lambda: results)])


def test_a_training_that_ended_early_is_not_evaluated(backend):
    class Stop(backend.get("engine").HookBase):
        def after_step(self):
            raise SystemExit

    with pytest.raises(SystemExit):
        train(backend, [backend.get("engine.hooks").EvalHook(0, pytest.fail), Stop()])
