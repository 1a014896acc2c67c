"""The training loop: order of hooks, errors and state."""

import pytest


def make_trainer(backend, run_step=lambda: None):
    class Trainer(backend.get("engine").TrainerBase):
        def run_step(self):
            run_step()

    return Trainer()


def recording_hook(backend, calls, number=0):
    class Recorder(backend.get("engine").HookBase):
        def state_dict(self):
            return {"calls": len(calls)}

        def load_state_dict(self, state):
            calls.append(state)

    for name in ("before_train", "before_step", "after_step", "after_train"):
        setattr(Recorder, name, lambda self, name=name: calls.append((number, name, self.trainer.iter, self.trainer.storage.iter)))
    return Recorder()


def test_hooks_are_called_in_order_with_the_iteration(backend):
    calls = []
    trainer = make_trainer(backend, lambda: calls.append("step"))
    trainer.register_hooks([recording_hook(backend, calls), None])
    trainer.register_hooks([recording_hook(backend, calls, 1)])
    trainer.train(3, 5)
    expected = [("before_train", 3), ("before_step", 3), ("after_step", 3), ("before_step", 4), ("after_step", 4), ("after_train", 5)]
    assert [call for call in calls if call != "step"] == [(number, name, i, i) for name, i in expected for number in (0, 1)]
    assert [index for index, call in enumerate(calls) if call == "step"] == [4, 9], "between before_step and after_step"
    assert (trainer.iter, trainer.start_iter, trainer.max_iter) == (5, 3, 5)


def test_an_error_ends_the_training_after_the_hooks(backend):
    calls = []
    trainer = make_trainer(backend, lambda: 1 / 0)
    trainer.register_hooks([recording_hook(backend, calls)])
    with pytest.raises(ZeroDivisionError):
        trainer.train(7, 9)
    assert calls[-1] == (0, "after_train", 7, 7)
    with pytest.raises(AssertionError):
        trainer.register_hooks([print])


def test_the_state_has_the_iteration_and_the_hooks_and_is_restored(backend, log_lines):
    calls, lines = [], log_lines("detectron2.engine")
    trainer, name = make_trainer(backend), "recording_hook.<locals>.Recorder"
    trainer.register_hooks([recording_hook(backend, calls), backend.get("engine").HookBase()])
    trainer.train(0, 2)
    assert trainer.state_dict() == {"iteration": 2, "hooks": {name: {"calls": 6}}}
    trainer.load_state_dict({"iteration": 7, "hooks": {name: {"calls": 3}, "Lost": {}}})
    assert (trainer.iter, calls[-1]) == (7, {"calls": 3})
    assert any("Lost" in line for line in lines), "the state of a hook that is not registered is reported"
