"""Parameter groups, SGD, gradient clipping and learning-rate schedules have the numbers of Detectron2."""

import copy
import random

import pytest
import torch
from torch import nn

from tests.detectron2_subset.recorded import numbers_of_detectron2


def make_model():
    """Layers of every kind, a shared one and a frozen bias among them."""
    shared = nn.Linear(3, 3)
    norms = [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4, affine=True), nn.SyncBatchNorm(4)]
    others = [shared, nn.Sequential(shared, nn.Linear(3, 2, bias=False)), nn.Embedding(2, 2)]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *norms, *others)
    model[0].bias.requires_grad = False
    return model


def groups_of(backend, model, **solver):
    """The groups of the optimizer, with names instead of parameters."""
    cfg = backend.get("config").get_cfg()
    cfg.SOLVER.update(solver)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = backend.get("solver").build_optimizer(cfg, model).param_groups
    return [{key: [names[p] for p in value] if key == "params" else value for key, value in group.items()} for group in groups]


SOLVERS = [
    {},
    {"WEIGHT_DECAY_NORM": 0.3},
    {"WEIGHT_DECAY_NORM": None, "WEIGHT_DECAY": 0.1},
    {"BIAS_LR_FACTOR": 2.0, "WEIGHT_DECAY_BIAS": 0.0, "WEIGHT_DECAY_NORM": 0.3},
    {"WEIGHT_DECAY_BIAS": 0.1, "NESTEROV": True},
]


@pytest.mark.parametrize("solver", SOLVERS)
def test_parameter_groups_equal_detectron2s(subset, real, solver):
    model = make_model()
    assert groups_of(subset, model, **solver) == groups_of(real, model, **solver)


def test_norms_and_biases_have_their_own_weight_decay_and_learning_rate(backend):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    solver = {"BASE_LR": 0.5, "WEIGHT_DECAY": 0.1, "WEIGHT_DECAY_NORM": 0.0, "BIAS_LR_FACTOR": 2.0, "WEIGHT_DECAY_BIAS": 0.3}
    found = {name: (g["lr"], g["weight_decay"]) for g in groups_of(backend, model, **solver) for name in g["params"]}
    assert found == {"0.weight": (0.5, 0.1), "0.bias": (1.0, 0.3), "1.weight": (0.5, 0.0), "1.bias": (1.0, 0.3)}


def test_every_trainable_parameter_is_in_one_group(backend):
    model = make_model()
    found = [name for group in groups_of(backend, model) for name in group["params"]]
    assert sorted(found) == sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)


CLIPPING = [(False, "value", 2.0), (True, "value", 2.0), (True, "norm", 2.0), (True, "norm", 1.0), (True, "norm", float("inf"))]
torch.manual_seed(1)
INITIAL = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))


@pytest.mark.parametrize("clipping", CLIPPING)
def test_sgd_and_clipping_give_the_weights_of_detectron2(subset, real, clipping):
    results = []
    for backend in (subset, real):
        cfg, model = backend.get("config").get_cfg(), copy.deepcopy(INITIAL)
        cfg.SOLVER.update({"BASE_LR": 0.5, "MOMENTUM": 0.8, "NESTEROV": True, "WEIGHT_DECAY": 0.01, "WEIGHT_DECAY_BIAS": 0.2})
        cfg.SOLVER.CLIP_GRADIENTS.update(dict(zip(("ENABLED", "CLIP_TYPE", "NORM_TYPE"), clipping)) | {"CLIP_VALUE": 0.3})
        optimizer = backend.get("solver").build_optimizer(cfg, model)
        for step in range(3):
            optimizer.zero_grad()
            model(torch.linspace(-1, 1, 12).reshape(4, 3) * (step + 1)).square().sum().backward()
            optimizer.step()
        results.append((type(optimizer).__name__, [value.tolist() for value in model.state_dict().values()]))
    assert results[0] == results[1]


@pytest.mark.parametrize(("kind", "expected"), [("value", [0.5, -0.25, -0.5]), ("norm", [2 / 6, -1 / 6, -2 / 6])])
def test_gradients_are_clipped_before_the_step(backend, kind, expected):
    cfg = backend.get("config").get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.update({"ENABLED": True, "CLIP_VALUE": 0.5, "CLIP_TYPE": kind, "NORM_TYPE": 2.0})
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = backend.get("solver.build").maybe_add_gradient_clipping(cfg, torch.optim.SGD)([parameter], lr=1.0)
    parameter.grad = torch.tensor([-2.0, 0.25, 2.0] if kind == "value" else [-2.0, 1.0, 2.0])
    optimizer.step()
    assert parameter.tolist() == pytest.approx(expected, abs=1e-5)


def rates(backend, **solver):
    """The learning rates of two groups, at each iteration."""
    cfg = backend.get("config").get_cfg()
    cfg.SOLVER.update(solver)
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (cfg.SOLVER.BASE_LR, 3.0)])
    scheduler = backend.get("solver").build_lr_scheduler(cfg, optimizer)
    found = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


CHOICES = {
    "LR_SCHEDULER_NAME": ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"],
    "MAX_ITER": range(1, 41),
    "BASE_LR": [0.001, 0.45, 4.8],
    "BASE_LR_END": [0.0, 0.0005],
    "WARMUP_FACTOR": [0.0, 0.001, 0.5, 1.0],
    "WARMUP_ITERS": range(51),
    "WARMUP_METHOD": ["linear", "constant"],
    "RESCALE_INTERVAL": [True, False],
    "STEPS": [(), (7,), (3, 50), (1, 2, 30)],
    "GAMMA": [0.1, 0.5],
    "NUM_DECAYS": range(1, 5),
}


def outcome(backend, solver):
    try:
        return rates(backend, **solver)
    except (ValueError, IndexError, ZeroDivisionError) as error:  # of fvcore: bad milestones, or a schedule that ends with the warm-up
        return type(error)


CASES = [str(seed) for seed in range(40)]


def measure(backend, case: str) -> list[float] | str:
    """Learning rates of the first group at each iteration of a random schedule, or the name of the error."""
    rng = random.Random(int(case))
    found = outcome(backend, {key: rng.choice(choices) for key, choices in CHOICES.items()})
    return [float(f"{first:.9g}") for first, _ in found] if isinstance(found, list) else found.__name__


@pytest.mark.parametrize("case", CASES)
def test_learning_rates_are_those_recorded_of_detectron2(backend, case):
    found, expected = measure(backend, case), numbers_of_detectron2("solver.test_solver", case)
    assert found == (expected if isinstance(expected, str) else pytest.approx(expected, rel=1e-6))


def test_learning_rates_equal_detectron2s(subset, real):
    rng = random.Random(0)
    for _ in range(100):
        solver = {key: rng.choice(choices) for key, choices in CHOICES.items()}
        assert outcome(subset, solver) == outcome(real, solver), solver


@pytest.mark.parametrize("key", ["LR_SCHEDULER_NAME", "WARMUP_METHOD", "CLIP_TYPE"])
def test_unknown_schedules_warmups_and_clippings_are_refused(backend, key):
    cfg, optimizer = backend.get("config").get_cfg(), torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    (cfg.SOLVER.CLIP_GRADIENTS if key == "CLIP_TYPE" else cfg.SOLVER)[key] = "other"
    with pytest.raises(ValueError, match="other"):
        backend.get("solver").build_lr_scheduler(cfg, optimizer)
        backend.get("solver").build_optimizer(cfg, nn.Linear(1, 1))
