"""Which parameters have weight decay and adaptation, and which optimizer a config builds."""

import numpy as np
import pytest
import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.config import add_detcon_config
from detcon_d2.solver import LARS, build_detcon_optimizer, build_finetuning_optimizer, get_detcon_param_groups


class Network(nn.Module):
    """Every kind of layer that matters here; ``weights`` names the parameters that have weight decay and adaptation."""

    weights = ("conv.weight", "linear.weight", "scale2d")

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.linear = nn.Linear(8, 4)
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(8), nn.SyncBatchNorm(8), nn.GroupNorm(2, 8), nn.LayerNorm((8, 2)), nn.InstanceNorm2d(8, affine=True)]
        )
        self.d2_norms = nn.ModuleList([d2.get_norm(name, 8) for name in ("FrozenBN", "naiveSyncBN", "BN")])
        self.scale = nn.Parameter(torch.ones(()))
        self.scale2d = nn.Parameter(torch.ones(2, 2))
        self.target = nn.Linear(8, 4).requires_grad_(False)
        self.tied = self.linear


def names_of(model, group):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for parameter in group["params"]]


def test_only_weights_have_decay_and_adaptation():
    model = Network()
    adapted, excluded = get_detcon_param_groups(model, 1e-4)
    assert sorted(names_of(model, adapted)) == sorted(Network.weights)
    assert (adapted["weight_decay"], adapted["lars"]) == (1e-4, True)
    assert (excluded["weight_decay"], excluded["lars"]) == (0.0, False)
    assert {"norms.3.weight", "norms.1.bias", "scale", "linear.bias", "d2_norms.1.weight"} <= set(names_of(model, excluded))


def test_groups_hold_each_trainable_parameter_once_in_the_same_order_every_time():
    model = Network()
    first, second = (get_detcon_param_groups(model, 0.1) for _ in range(2))
    assert [names_of(model, group) for group in first] == [names_of(model, group) for group in second]
    grouped = [parameter for group in first for parameter in group["params"]]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(grouped) == len(set(grouped)) == len(trainable) and set(grouped) == set(trainable)


def test_groups_equal_those_of_the_released_code(shared_dir):
    oracle = np.load(shared_dir / "oracles" / "lars_oracle.npz")
    for name, adapts in zip(oracle["filter_names"], oracle["filter_decay_and_adapt"]):
        is_norm, leaf = "batch" in name, name.split("|")[1]
        layer = nn.BatchNorm2d(4) if is_norm else nn.Linear(4, 4)
        parameter = layer.bias if leaf in ("b", "offset") else layer.weight
        adapted, excluded = get_detcon_param_groups(layer, 0.1)
        assert any(parameter is p for p in (adapted if adapts else excluded)["params"]), name


@pytest.fixture
def cfg():
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY = 0.7, 0.85, 1e-3
    cfg.DETCON.SOLVER.ETA = 0.02
    return cfg


def test_lars_gets_the_configs_numbers(cfg):
    optimizer = build_detcon_optimizer(cfg, nn.Linear(2, 2))
    assert type(optimizer) is LARS
    weight, bias = optimizer.param_groups
    expected = {"lr": 0.7, "momentum": 0.85, "eta": 0.02}
    assert {key: weight[key] for key in expected} == {key: bias[key] for key in expected} == expected
    assert (weight["weight_decay"], bias["weight_decay"], weight["lars"], bias["lars"]) == (1e-3, 0.0, True, False)


@pytest.mark.parametrize(("name", "kind"), [("SGD", torch.optim.SGD), ("AdamW", torch.optim.AdamW)])
def test_other_optimizers_keep_the_groups_and_train(cfg, name, kind):
    cfg.DETCON.SOLVER.OPTIMIZER = name
    model = nn.Linear(2, 2)
    optimizer = build_detcon_optimizer(cfg, model)
    assert type(optimizer) is kind
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.7, 1e-3), (0.7, 0.0)]
    assert optimizer.param_groups[0].get("momentum", 0.85) == 0.85
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


def test_an_unknown_optimizer_is_refused_with_the_known_ones(cfg):
    cfg.DETCON.SOLVER.OPTIMIZER = "lars"
    with pytest.raises(ValueError, match=r"DETCON.SOLVER.OPTIMIZER is 'lars'; expected 'LARS', 'SGD' or 'AdamW'"):
        build_detcon_optimizer(cfg, nn.Linear(2, 2))


def test_a_frozen_model_is_refused(cfg):
    with pytest.raises(ValueError, match="no parameter that requires grad"):
        build_detcon_optimizer(cfg, nn.Linear(2, 2).requires_grad_(False))


def test_fine_tuning_with_sgd_is_detectron2s_own(cfg):
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.25
    model = Network()
    ours, theirs = build_finetuning_optimizer(cfg, model), d2.build_optimizer(cfg, model)
    assert type(ours).__mro__[:2] == type(theirs).__mro__[:2] and ours.defaults == theirs.defaults
    assert [group["weight_decay"] for group in ours.param_groups] == [group["weight_decay"] for group in theirs.param_groups]


def test_fine_tuning_with_adamw_decays_weights_only_and_clips(cfg):
    cfg.DETCON.FINETUNE.OPTIMIZER = "AdamW"
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = True, 0.5
    model = nn.Linear(2, 2)
    optimizer = build_finetuning_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.7, 1e-3), (0.7, 0.0)]
    (100 * model(torch.ones(1, 2)).sum()).backward()
    optimizer.step()
    assert model.weight.grad.abs().max() == 0.5


def test_an_unknown_fine_tuning_optimizer_is_refused(cfg):
    cfg.DETCON.FINETUNE.OPTIMIZER = "Adam"
    with pytest.raises(ValueError, match="expected 'SGD' or 'AdamW'"):
        build_finetuning_optimizer(cfg, nn.Linear(2, 2))
