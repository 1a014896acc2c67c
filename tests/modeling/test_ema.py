"""The target network's momentum and update."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from detcon_d2.modeling.ema import ema_momentum, update_ema
from tests.modeling.oracles import read_cases, relative_error


@pytest.mark.parametrize("run", range(7))
def test_momentum_equals_the_released_code(fixtures_dir, run):
    case = read_cases(fixtures_dir / "schedule.npz")[f"run{run}"]
    found = [ema_momentum(int(step), int(case["total_steps"]), float(case["base_ema"])) for step in case["steps"]]
    assert np.abs(found - case["target_ema_f64"]).max() < 1e-9


def test_momentum_goes_from_its_base_to_one_and_stays():
    values = [ema_momentum(step, 100, 0.9) for step in range(120)]
    assert values[0] == pytest.approx(0.9) and values[50] == pytest.approx(0.95)
    assert sorted(values) == values and set(values[100:]) == {1.0}


@pytest.mark.parametrize("arguments", [(-1, 10, 0.9), (0, 0, 0.9), (0, 10, 1.1), (0, 10, float("nan"))])
def test_momentum_refuses_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match="expected iteration >= 0"):
        ema_momentum(*arguments)


@pytest.mark.parametrize("run", ["official", "bigwd"])
def test_update_equals_the_released_code(fixtures_dir, run):
    oracle = np.load(fixtures_dir / "lars_small.npz")
    online = nn.ParameterList([torch.zeros(len(oracle["params0"]), dtype=torch.float64)])
    # The oracle's target starts at half of the first parameters.
    target = nn.ParameterList([torch.tensor(oracle["params0"]).double() / 2])
    for step in range(5):
        online[0].data = torch.tensor(oracle[f"{run}/params"][step])
        update_ema(target, online, float(oracle["tau"][step]))
        assert relative_error(target[0].detach(), oracle[f"{run}/target"][step]) < 1e-9


def build_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2, bias=False))


def test_update_averages_parameters_in_place_and_leaves_buffers_and_gradients_alone():
    online, target = build_network(), build_network().requires_grad_(False)
    online(torch.randn(2, 3, 6, 6))[..., 0].sum().backward()
    before, buffers = copy.deepcopy(target), dict(target.named_buffers())
    storage = [p.data_ptr() for p in target.parameters()]
    update_ema(target, online, 0.75)
    for after, old, new in zip(target.parameters(), before.parameters(), online.parameters()):
        assert torch.allclose(after, 0.75 * old + 0.25 * new)
        assert after.grad is None and not after.requires_grad and new.requires_grad
    assert storage == [p.data_ptr() for p in target.parameters()]
    assert not torch.equal(buffers["1.running_mean"], online[1].running_mean)
    assert torch.equal(buffers["1.running_mean"], before[1].running_mean)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_zero_copies_and_one_keeps_exactly(momentum):
    online, target = build_network(), build_network()
    expected = copy.deepcopy(target if momentum else online)
    update_ema(target, online, momentum)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), expected.parameters()))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (nn.Sequential(nn.Linear(2, 3)), "0.bias is .* in the target, but absent"),
        (nn.Sequential(nn.Linear(3, 3, bias=False)), r"0.weight is \(3, 3\) in the target, but \(3, 2\)"),
        (nn.ModuleDict({"module": nn.Linear(2, 3, bias=False)}), "DistributedDataParallel"),
    ],
)
def test_networks_that_differ_are_refused_and_left_unchanged(target, message):
    before = copy.deepcopy(target)
    with pytest.raises(ValueError, match=message):
        update_ema(target, nn.Sequential(nn.Linear(2, 3, bias=False)), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), before.parameters()))
