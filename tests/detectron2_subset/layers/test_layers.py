"""Convolutions and normalisation layers behave as documented on both backends, and give the same numbers."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

NORMS = ["BN", "SyncBN", "nnSyncBN", "FrozenBN", "naiveSyncBN", "naiveSyncBN_N", "GN", "LN"]


@pytest.fixture
def layers(backend):
    return backend.get("layers")


def test_norm_and_activation_follow_the_convolution(layers):
    conv = layers.Conv2d(3, 4, 3, stride=2, padding=1, bias=False, norm=nn.BatchNorm2d(4), activation=torch.relu)
    x = torch.randn(2, 3, 5, 5)
    assert torch.allclose(conv(x), torch.relu(conv.norm(nn.functional.conv2d(x, conv.weight, stride=2, padding=1))))
    assert list(conv.state_dict())[:3] == ["weight", "norm.weight", "norm.bias"]
    assert layers.Conv2d(3, 4, 3, stride=2, padding=1)(torch.zeros(0, 3, 8, 8)).shape == (0, 4, 4, 4)


def test_norms_are_found_by_name(layers):
    kinds = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm, "nnSyncBN": nn.SyncBatchNorm, "GN": nn.GroupNorm}
    kinds |= {"FrozenBN": layers.FrozenBatchNorm2d, "naiveSyncBN": layers.NaiveSyncBatchNorm, "naiveSyncBN_N": layers.NaiveSyncBatchNorm}
    assert {name: type(layers.get_norm(name, 64)) for name in kinds} == kinds
    assert layers.get_norm("", 8) is None and layers.get_norm(None, 8) is None and layers.get_norm("GN", 64).num_groups == 32
    assert type(layers.get_norm(lambda channels: nn.Identity(channels), 8)) is nn.Identity
    out = layers.get_norm("LN", 16)(torch.randn(2, 16, 3, 4))
    assert torch.allclose(out.mean(1), torch.zeros(2, 3, 4), atol=1e-6)
    with pytest.raises(KeyError):
        layers.get_norm("NoSuchNorm", 8)


def randomised(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            value.uniform_(0.5, 2.0)
    return norm


@pytest.mark.parametrize("grad", [False, True])
def test_frozen_batch_norm_is_batch_norm_in_evaluation_mode(layers, grad):
    reference = randomised(nn.BatchNorm2d(4, eps=1e-3)).eval()
    frozen = layers.FrozenBatchNorm2d.convert_frozen_batchnorm(reference)
    x = torch.randn(2, 4, 3, 3)
    assert frozen.eps == 1e-3 and torch.allclose(frozen(x.clone().requires_grad_(grad)), reference(x), atol=1e-6)
    # The state dict has the same keys, so that checkpoints of either layer load into the other.
    assert list(frozen.state_dict()) == list(reference.state_dict()) and not list(frozen.parameters())
    new = layers.FrozenBatchNorm2d(4)
    assert torch.allclose(new(x.clone().requires_grad_(grad)), x, atol=1e-6), "a new layer is the identity"
    assert new(x.to(torch.bfloat16).requires_grad_(grad)).dtype == torch.bfloat16


def test_freezing_a_block_converts_batch_norms_and_stops_training(layers):
    block = layers.CNNBlockBase(3, 4, 2)
    block.conv = layers.Conv2d(3, 4, 1, norm=nn.BatchNorm2d(4))
    block.others = nn.Sequential(nn.SyncBatchNorm(2), layers.NaiveSyncBatchNorm(2), nn.GroupNorm(1, 2), nn.Sequential(nn.BatchNorm2d(2)))
    assert block.freeze() is block and (block.in_channels, block.out_channels, block.stride) == (3, 4, 2)
    assert not any(parameter.requires_grad for parameter in block.parameters())
    frozen = layers.FrozenBatchNorm2d
    assert [type(one) for one in (block.conv.norm, *block.others[:3])] == [frozen, frozen, frozen, nn.GroupNorm]
    assert isinstance(block.others[3][0], frozen)


@pytest.mark.parametrize(("version", "complete"), [(None, True), (1, True), (2, False)])
def test_only_old_state_dicts_may_have_no_statistics(layers, version, complete):
    frozen, state = layers.FrozenBatchNorm2d(2), OrderedDict(weight=torch.full((2,), 3.0), bias=torch.ones(2))
    state._metadata = OrderedDict({"": {"version": version}})
    if not complete:
        with pytest.raises(RuntimeError, match="running_mean"):
            frozen.load_state_dict(state)
        return
    frozen.load_state_dict(state)
    assert (frozen.running_mean.tolist(), frozen.running_var.tolist(), frozen.weight.tolist()) == ([0, 0], [1, 1], [3, 3])


@pytest.mark.parametrize("name", NORMS)
def test_both_backends_normalise_alike(subset, real, name):
    torch.manual_seed(0)
    x, results = torch.randn(2, 64, 5, 5), []
    ours, theirs = (one.get("layers").get_norm(name, 64) for one in (subset, real))
    assert {key: value.shape for key, value in ours.state_dict().items()} == {key: v.shape for key, v in theirs.state_dict().items()}
    for norm in (ours, theirs):
        leaf = x.clone().requires_grad_()
        # SyncBatchNorm trains on accelerators only.
        norm.train(not isinstance(norm, nn.SyncBatchNorm))
        (norm(leaf) ** 3).sum().backward()
        results.append((norm(x).detach(), leaf.grad))
    for our, their in zip(*results):
        assert torch.allclose(our, their, atol=1e-5, rtol=1e-5)
    assert all(torch.allclose(ours.state_dict()[key], value, atol=1e-6) for key, value in theirs.state_dict().items())
