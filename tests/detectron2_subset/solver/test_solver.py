"""Parameter groups, SGD, gradient clipping and learning-rate schedules: the numbers are Detectron2's."""

import copy
import random

import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler
from torch import nn


def make_model():
    torch.manual_seed(0)
    shared = nn.Linear(3, 3)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.InstanceNorm2d(4, affine=True),
        shared,
        nn.Sequential(shared, nn.Linear(3, 2, bias=False)),
        nn.SyncBatchNorm(4),
        nn.Embedding(2, 2),
    )
    model[0].bias.requires_grad = False
    return model


def named_groups(groups, model):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [{k: [names[p] for p in v] if k == "params" else v for k, v in group.items()} for group in groups]


OPTIONS = [
    {},
    {"weight_decay_norm": 0.0},
    {"base_lr": 0.5, "weight_decay": 0.1, "weight_decay_norm": 0.0},
    {"base_lr": 0.5, "bias_lr_factor": 2.0, "weight_decay_bias": 0.0, "weight_decay_norm": 0.3},
    {"base_lr": 0.5, "lr_factor_func": lambda name: 0.1 if name.startswith("6.") else 1.0},
    {"base_lr": 0.5, "bias_lr_factor": 2.0, "lr_factor_func": lambda name: 0.1},
    {"base_lr": 0.5, "overrides": {"weight": {"lr": 9.0, "weight_decay": 0.7}}},
    {"weight_decay": 0.1, "weight_decay_bias": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_parameter_groups_equal_detectron2s(subset, real, options):
    model = make_model()
    ours, theirs = (named_groups(b.get("solver").get_default_optimizer_params(model, **options), model) for b in (subset, real))
    assert ours == theirs


@pytest.mark.parametrize("options", OPTIONS)
def test_every_trainable_parameter_is_in_one_group(backend, options):
    model = make_model()
    groups = backend.get("solver").get_default_optimizer_params(model, **options)
    found = [parameter for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {p for p in model.parameters() if p.requires_grad}


def test_norm_layers_have_their_own_weight_decay(backend):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    groups = backend.get("solver").get_default_optimizer_params(model, weight_decay=0.1, weight_decay_norm=0.0)
    assert named_groups(groups, model) == [
        {"weight_decay": 0.1, "params": ["0.weight", "0.bias"]},
        {"weight_decay": 0.0, "params": ["1.weight", "1.bias"]},
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"bias_lr_factor": 2.0},
        {"lr_factor_func": lambda name: 0.5},
        {"base_lr": 1.0, "weight_decay_bias": 3.0, "overrides": {"bias": {"lr": 9.0}}},
    ],
)
def test_contradicting_options_are_refused(backend, options):
    with pytest.raises(ValueError, match=r"base_lr|bias"):
        backend.get("solver").get_default_optimizer_params(make_model(), **options)


CLIPPING = [(False, "value", 2.0), (True, "value", 2.0), (True, "norm", 2.0), (True, "norm", 1.0), (True, "norm", float("inf"))]


def train_once(backend, enabled, kind, norm_type, **solver):
    cfg = backend.get("config").get_cfg()
    cfg.SOLVER.update({"BASE_LR": 0.5, "MOMENTUM": 0.8, "NESTEROV": True, "WEIGHT_DECAY": 0.01, **solver})
    cfg.SOLVER.CLIP_GRADIENTS.update({"ENABLED": enabled, "CLIP_TYPE": kind, "CLIP_VALUE": 0.3, "NORM_TYPE": norm_type})
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model.load_state_dict(copy.deepcopy(INITIAL))
    optimizer = backend.get("solver").build_optimizer(cfg, model)
    for step in range(3):
        optimizer.zero_grad()
        model(torch.linspace(-1, 1, 12).reshape(4, 3) * (step + 1)).square().sum().backward()
        optimizer.step()
    return optimizer, model.state_dict()


torch.manual_seed(1)
INITIAL = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).state_dict()


@pytest.mark.parametrize("clipping", CLIPPING)
def test_sgd_and_clipping_give_detectron2s_weights(subset, real, clipping):
    (ours, our_weights), (theirs, their_weights) = (
        train_once(b, *clipping, WEIGHT_DECAY_BIAS=0.2, BIAS_LR_FACTOR=2.0) for b in (subset, real)
    )
    assert all(torch.equal(our_weights[name], their_weights[name]) for name in our_weights)
    strip = [[{k: v for k, v in g.items() if k != "params"} for g in o.param_groups] for o in (ours, theirs)]
    assert strip[0] == strip[1]
    assert type(ours).__name__ == type(theirs).__name__


def test_clipping_by_value_bounds_each_element(backend):
    cfg = backend.get("config").get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.update({"ENABLED": True, "CLIP_VALUE": 0.5})
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = backend.get("solver.build").maybe_add_gradient_clipping(cfg, torch.optim.SGD)([parameter], lr=1.0)
    parameter.grad = torch.tensor([-2.0, 0.25, 2.0])
    optimizer.step()
    assert parameter.tolist() == [0.5, -0.25, -0.5]


def test_an_unknown_clipping_is_refused(backend):
    cfg = backend.get("config").get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.update({"ENABLED": True, "CLIP_TYPE": "other"})
    with pytest.raises(ValueError, match="other"):
        backend.get("solver").build_optimizer(cfg, nn.Linear(1, 1))


def rates(backend, **solver):
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
    except (ValueError, IndexError, ZeroDivisionError) as error:  # fvcore at the very end: bad milestones, no value left, no time left
        return type(error)


@pytest.mark.parametrize("seed", range(10))
def test_learning_rates_equal_detectron2s(subset, real, seed):
    rng = random.Random(seed)
    for _ in range(20):
        solver = {key: rng.choice(choices) for key, choices in CHOICES.items()}
        assert outcome(subset, solver) == outcome(real, solver), solver


def test_warmup_from_zero_with_rescaling_is_linear_then_the_whole_cosine(backend):
    found = [
        lr
        for lr, _ in rates(
            backend, LR_SCHEDULER_NAME="WarmupCosineLR", MAX_ITER=30, BASE_LR=2.0, WARMUP_ITERS=10, WARMUP_FACTOR=0.0, RESCALE_INTERVAL=True
        )
    ]
    cosine = CosineParamScheduler(2.0, 0.0)
    assert found == pytest.approx([2.0 * i / 10 for i in range(10)] + [cosine((i - 10) / 20) for i in range(10, 30)])


def test_steps_beyond_the_end_are_ignored(backend):
    found = [lr for lr, _ in rates(backend, MAX_ITER=6, STEPS=(3, 50), BASE_LR=1.0, WARMUP_ITERS=0)]
    assert found == pytest.approx([1.0, 1.0, 1.0, 0.1, 0.1, 0.1])


def test_unknown_schedules_and_warmups_are_refused(backend):
    for bad in ({"LR_SCHEDULER_NAME": "Other"}, {"WARMUP_METHOD": "other"}):
        with pytest.raises(ValueError, match=r"(?i)other"):
            rates(backend, **bad)


def test_a_multiplier_must_be_a_parameter_scheduler(backend):
    with pytest.raises(ValueError, match="ParamScheduler"):
        backend.get("solver").LRMultiplier(torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1), lambda where: 1.0, max_iter=3)
