"""The training loop: order of hooks, losses, errors and state."""

import pytest
import torch
from torch import nn


class TwoLosses(nn.Module):
    """Linear on BatchNorm, with two losses; ``factor`` spoils them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.linear, self.factor = nn.BatchNorm1d(2), nn.Linear(2, 1), 1.0

    def forward(self, x):
        value = self.linear(self.norm(x)).mean() * self.factor
        return {"loss_x": value, "loss_y": value * 2}


def batches():
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.rand(4, 2, generator=generator)


def make_trainer(backend, model=None, **kwargs):
    model = model or TwoLosses()
    return backend.get("engine").SimpleTrainer(model, batches(), torch.optim.SGD(model.parameters(), 0.1), **kwargs)


def recording_hook(backend, calls):
    class Recorder(backend.get("engine").HookBase):
        def state_dict(self):
            return {"calls": len(calls)}

        def load_state_dict(self, state):
            calls.append(state)

    names = ("before_train", "before_step", "after_backward", "after_step", "after_train")
    for name in names:
        setattr(Recorder, name, lambda self, name=name: calls.append((name, self.trainer.iter, self.trainer.storage.iter)))
    return Recorder()


def test_hooks_are_called_in_order_with_the_iteration(backend):
    calls = []
    trainer = make_trainer(backend)
    trainer.register_hooks([recording_hook(backend, calls), None])
    trainer.train(3, 5)
    steps = [(name, i, i) for i in (3, 4) for name in ("before_step", "after_backward", "after_step")]
    assert calls == [("before_train", 3, 3), *steps, ("after_train", 5, 5)]
    assert (trainer.iter, trainer.start_iter, trainer.max_iter) == (5, 3, 5)


def test_only_hooks_can_be_registered(backend):
    with pytest.raises(AssertionError):
        backend.get("engine").TrainerBase().register_hooks([print])


def test_losses_are_recorded_and_the_model_trains(backend):
    trainer = make_trainer(backend)
    before = trainer.model.linear.weight.clone()
    trainer.train(0, 4)
    latest = trainer.storage.latest()
    assert set(latest) == {"data_time", "rank_data_time", "loss_x", "loss_y", "total_loss"}
    assert latest["total_loss"][0] == pytest.approx(3 * latest["loss_x"][0], rel=1e-6)
    assert not torch.equal(before, trainer.model.linear.weight)


@pytest.mark.parametrize("options", [{}, {"zero_grad_before_forward": True}, {"gather_metric_period": 2}])
def test_histories_and_weights_equal_detectron2s(subset, real, options):
    trainers = [make_trainer(backend, **options) for backend in (subset, real)]
    histories = []
    for trainer in trainers:
        trainer.train(0, 6)
        histories.append({k: h.values() for k, h in trainer.storage.histories().items() if "time" not in k})
    assert histories[0] == histories[1]
    weights = [trainer.model.state_dict() for trainer in trainers]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_a_model_may_return_one_tensor(backend):
    model = nn.Linear(2, 1)
    model.forward = lambda x: nn.Linear.forward(model, x).mean()
    trainer = make_trainer(backend, model)
    trainer.train(0, 2)
    assert set(trainer.storage.latest()) == {"data_time", "rank_data_time", "total_loss"}


def test_a_nan_stops_the_training_after_the_hooks(backend):
    calls = []
    trainer = make_trainer(backend)
    trainer.register_hooks([recording_hook(backend, calls)])
    trainer.model.factor = float("nan")
    with pytest.raises(FloatingPointError, match=r"iteration=7(.|\n)*loss_x"):
        trainer.train(7, 9)
    assert calls[-1] == ("after_train", 7, 7)


def test_the_model_is_put_into_training_mode_and_must_stay_there(backend):
    trainer = make_trainer(backend, TwoLosses().eval())
    assert trainer.model.training
    trainer.model.eval()
    with pytest.raises(AssertionError, match="model"):
        trainer.train(0, 1)


def test_a_data_loader_that_ends_stops_the_training(backend):
    trainer = make_trainer(backend)
    trainer.data_loader = [torch.rand(4, 2)]
    with pytest.raises(StopIteration):
        trainer.train(0, 2)


def test_state_holds_iteration_hooks_and_optimizer(backend):
    trainer = make_trainer(backend)
    trainer.register_hooks([recording_hook(backend, []), backend.get("engine").HookBase()])
    trainer.train(0, 2)
    state = trainer.state_dict()
    assert (state["iteration"], state["hooks"], set(state)) == (
        2,
        {"recording_hook.<locals>.Recorder": {"calls": 8}},
        {"iteration", "hooks", "optimizer"},
    )


def test_state_is_taken_back_and_unknown_hooks_are_named(backend, log_lines):
    calls, lines = [], log_lines("detectron2.engine")
    trainer = make_trainer(backend)
    trainer.register_hooks([recording_hook(backend, calls)])
    state = {**trainer.state_dict(), "iteration": 7, "hooks": {"recording_hook.<locals>.Recorder": {"calls": 3}, "Lost": {}}}
    trainer.load_state_dict(state)
    assert (trainer.iter, calls) == (7, [{"calls": 3}])
    assert any("Lost" in line for line in lines)


def test_a_trainer_must_say_what_a_step_is(backend):
    with pytest.raises(NotImplementedError):
        backend.get("engine").TrainerBase().run_step()
