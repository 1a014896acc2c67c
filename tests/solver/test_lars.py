"""LARS against the released code, and as a torch optimizer."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from detcon_d2.solver import LARS
from tests.modeling.oracles import relative_error


def read_extract(fixtures_dir):
    """The small extract of the oracle."""
    with np.load(fixtures_dir / "lars_small.npz") as archive:
        return {key: archive[key] for key in archive.files}


def split(vector, oracle, dtype=torch.float64):
    return [torch.tensor(leaf, dtype=dtype) for leaf in np.split(vector, oracle["sizes"].cumsum()[:-1])]


def build_optimizer(params, adapt, **options):
    groups = [{"params": [p for p, is_adapted in zip(params, adapt) if is_adapted]}]
    groups.append({"params": [p for p, is_adapted in zip(params, adapt) if not is_adapted], "weight_decay": 0.0, "lars": False})
    return LARS(groups, lr=0.1, **options)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("run", ["official", "bigwd"])
def test_five_steps_equal_the_released_code(fixtures_dir, run, dtype, tolerance):
    oracle = read_extract(fixtures_dir)
    params = [nn.Parameter(leaf) for leaf in split(oracle["params0"], oracle, dtype)]
    options = {key: float(oracle[f"{run}/{key}"]) for key in ("weight_decay", "eta", "momentum")}
    optimizer = build_optimizer(params, oracle["adapt"], **options)
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = float(oracle["lr"][step])
        for parameter, grad in zip(params, split(oracle["grads"][step], oracle, dtype)):
            parameter.grad = grad
        optimizer.step()
        momenta = [optimizer.state[parameter]["momentum_buffer"] for parameter in params]
        expected = zip(split(oracle[f"{run}/params"][step], oracle), split(oracle[f"{run}/mu"][step], oracle), strict=True)
        for parameter, momentum, (leaf, mu) in zip(params, momenta, expected, strict=True):
            assert relative_error(parameter.detach(), leaf.numpy()) < tolerance
            assert relative_error(momentum, mu.numpy()) < tolerance


def test_the_extract_is_the_full_oracle(fixtures_dir, shared_dir):
    oracle, full = read_extract(fixtures_dir), np.load(shared_dir / "oracles" / "lars_oracle.npz")
    names = full["filter_names"]
    assert np.array_equal(full["filter_decay_and_adapt"], oracle["adapt"])
    for run in ("official", "bigwd"):
        for key in ("params", "mu", "target"):
            for step in range(5):
                leaves = [full[f"{run}/{key}{step + 1}_f64/{name}"].ravel() for name in names]
                assert np.array_equal(np.concatenate(leaves), oracle[f"{run}/{key}"][step])


@pytest.mark.parametrize(("p", "g"), [(0.0, 2.0), (3.0, 0.0), (0.0, 0.0)])
def test_a_zero_norm_means_no_adaptation_and_no_nan(p, g):
    parameter = nn.Parameter(torch.full((2, 2), p))
    parameter.grad = torch.full((2, 2), g)
    LARS([parameter], lr=0.5).step()
    assert torch.equal(parameter.detach(), torch.full((2, 2), p - 0.5 * g))


def test_without_adaptation_it_is_torchs_sgd():
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4)) for _ in range(2))
    options = {"lr": 0.3, "momentum": 0.8, "weight_decay": 0.1}
    optimizers = LARS([ours], lars=False, **options), torch.optim.SGD([theirs], **options)
    for step in range(4):
        for parameter, optimizer in zip((ours, theirs), optimizers):
            parameter.grad = torch.full((3, 4), float(step)).sin()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_gradients_stay_as_they_are_and_parameters_without_one_are_skipped():
    parameters = [nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    parameters[0].grad = torch.full((2, 2), 3.0)
    optimizer = LARS(parameters, lr=1.0, weight_decay=0.5)
    optimizer.step()
    assert (parameters[0].grad == 3).all() and (parameters[1] == 1).all()
    assert parameters[1] not in optimizer.state


def run_steps(parameters, optimizer, steps):
    for step in steps:
        for index, parameter in enumerate(parameters):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + index))
        optimizer.step()


def test_state_loads_safely_and_continues_bit_for_bit():
    def build():
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))]
        return parameters, build_optimizer(parameters, [True, False], weight_decay=1e-3)

    parameters, optimizer = build()
    run_steps(parameters, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "parameters": [p.detach() for p in parameters]}, file)
    run_steps(parameters, optimizer, range(3, 6))

    resumed, resumed_optimizer = build()
    file.seek(0)
    checkpoint = torch.load(file, weights_only=True)
    for parameter, value in zip(resumed, checkpoint["parameters"]):
        parameter.data.copy_(value)
    resumed_optimizer.load_state_dict(checkpoint["optimizer"])
    run_steps(resumed, resumed_optimizer, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(parameters, resumed))
    assert [group["lars"] for group in resumed_optimizer.param_groups] == [True, False]


def test_parameters_of_several_dtypes_and_memory_formats_take_the_same_step():
    weight = torch.randn(4, 3, 3, 3)
    variants = [weight, weight.contiguous(memory_format=torch.channels_last), weight.double()]
    parameters = [nn.Parameter(variant.clone(memory_format=torch.preserve_format)) for variant in variants]
    optimizer = LARS(parameters, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = weight.sin().to(parameter.dtype)
        optimizer.step()
    assert all(torch.allclose(parameters[0], other.float(), atol=1e-6) for other in parameters[1:])
    assert parameters[1].is_contiguous(memory_format=torch.channels_last) and parameters[2].dtype == torch.float64


def test_a_closure_is_evaluated_with_gradients_and_returned():
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([parameter], lr=0.1)

    def closure():
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert (parameter < 1).all()


@pytest.mark.parametrize("options", [{"lr": -0.1}, {"momentum": -1.0}, {"weight_decay": -1.0}, {"eta": 0.0}, {"lr": float("nan")}])
def test_numbers_out_of_range_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"LARS: {name} is"):
        LARS([nn.Parameter(torch.ones(1))], **{"lr": 0.1} | options)
    with pytest.raises(ValueError, match=f"LARS: {name} is"):
        LARS([{"params": [nn.Parameter(torch.ones(1))]} | options], lr=0.1)


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse=False"):
        LARS(embedding.parameters(), lr=0.1).step()
