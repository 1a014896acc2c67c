"""Layers behave as documented on every backend present, and alike on both."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

NORMS = ["", "BN", "SyncBN", "nnSyncBN", "FrozenBN", "naiveSyncBN", "naiveSyncBN_N", "GN", "LN"]


@pytest.fixture
def layers(backend):
    return backend.get("layers")


def test_convolution_then_norm_then_activation(layers):
    conv = layers.Conv2d(3, 4, 3, padding=1, bias=False, norm=nn.BatchNorm2d(4), activation=torch.relu)
    x = torch.randn(2, 3, 5, 5)
    expected = torch.relu(conv.norm(nn.functional.conv2d(x, conv.weight, padding=1)))
    assert torch.allclose(conv(x), expected)
    assert list(conv.state_dict())[:3] == ["weight", "norm.weight", "norm.bias"]


def test_convolution_of_no_images_has_the_right_shape(layers):
    assert layers.Conv2d(3, 4, 3, stride=2, padding=1)(torch.zeros(0, 3, 8, 8)).shape == (0, 4, 4, 4)


@pytest.mark.parametrize(
    ("name", "expected"), [("BN", nn.BatchNorm2d), ("SyncBN", nn.SyncBatchNorm), ("nnSyncBN", nn.SyncBatchNorm), ("GN", nn.GroupNorm)]
)
def test_norms_by_name_are_torch_layers(layers, name, expected):
    norm = layers.get_norm(name, 64)
    assert type(norm) is expected and norm.weight.shape == (64,)


def test_norm_names_of_the_subset_and_callables(layers):
    assert layers.get_norm("", 8) is None and layers.get_norm(None, 8) is None
    assert isinstance(layers.get_norm("FrozenBN", 8), layers.FrozenBatchNorm2d)
    assert isinstance(layers.get_norm("naiveSyncBN", 8), layers.NaiveSyncBatchNorm)
    assert layers.get_norm("GN", 64).num_groups == 32
    assert layers.get_norm(lambda channels: nn.Identity(channels), 8).__class__ is nn.Identity
    with pytest.raises(KeyError):
        layers.get_norm("NoSuchNorm", 8)


def test_layer_norm_normalises_over_channels(layers):
    out = layers.get_norm("LN", 16)(torch.randn(2, 16, 3, 4))
    assert torch.allclose(out.mean(1), torch.zeros(2, 3, 4), atol=1e-6)


def test_frozen_batch_norm_starts_as_identity_without_parameters(layers):
    frozen = layers.FrozenBatchNorm2d(4)
    x = torch.randn(2, 4, 3, 3)
    assert torch.allclose(frozen(x), x, atol=1e-6) and torch.allclose(frozen(x.clone().requires_grad_()), x, atol=1e-6)
    assert not list(frozen.parameters())
    assert list(frozen.state_dict()) == ["weight", "bias", "running_mean", "running_var"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_frozen_batch_norm_keeps_the_dtype(layers, dtype):
    x = torch.randn(1, 4, 2, 2).to(dtype)
    assert layers.FrozenBatchNorm2d(4)(x.requires_grad_()).dtype == dtype


def test_frozen_batch_norm_is_batch_norm_in_eval_mode(layers):
    reference = randomised(nn.BatchNorm2d(4, eps=1e-3)).eval()
    frozen = layers.FrozenBatchNorm2d.convert_frozen_batchnorm(reference)
    assert isinstance(frozen, layers.FrozenBatchNorm2d) and frozen.eps == 1e-3
    x = torch.randn(2, 4, 3, 3)
    for grad in (False, True):
        assert torch.allclose(frozen(x.clone().requires_grad_(grad)), reference(x), atol=1e-6)


def randomised(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            value.uniform_(0.5, 2.0)
    return norm


def test_a_frozen_layer_keeps_the_state_dict_keys_of_its_batch_norm(layers):
    norm = randomised(nn.BatchNorm2d(4))
    frozen = layers.FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    assert list(frozen.state_dict()) == list(norm.state_dict())
    frozen.load_state_dict(nn.BatchNorm2d(4).state_dict())
    assert frozen.running_var.tolist() == [1] * 4


def test_freezing_converts_batch_norms_and_nothing_else(layers):
    net = nn.Sequential(
        nn.BatchNorm2d(2), nn.SyncBatchNorm(2), layers.NaiveSyncBatchNorm(2), nn.GroupNorm(1, 2), nn.Sequential(nn.BatchNorm2d(2))
    )
    assert layers.FrozenBatchNorm2d.convert_frozen_batchnorm(net) is net
    frozen = layers.FrozenBatchNorm2d
    assert [type(one) for one in net[:4]] == [frozen, frozen, frozen, nn.GroupNorm] and isinstance(net[4][0], frozen)


@pytest.mark.parametrize(("version", "complete"), [(None, True), (1, True), (2, False), (3, False)])
def test_old_state_dicts_may_lack_statistics(layers, version, complete):
    frozen = layers.FrozenBatchNorm2d(2)
    state = OrderedDict(weight=torch.full((2,), 3.0), bias=torch.ones(2))
    state._metadata = OrderedDict({"": {"version": version}})
    if not complete:
        with pytest.raises(RuntimeError, match="running_mean"):
            frozen.load_state_dict(state)
        return
    frozen.load_state_dict(state)
    assert frozen.running_mean.tolist() == [0, 0] and frozen.running_var.tolist() == [1, 1] and frozen.weight.tolist() == [3, 3]


def test_a_frozen_block_trains_nothing(layers):
    block = layers.CNNBlockBase(3, 4, 2)
    block.conv = layers.Conv2d(3, 4, 1, norm=nn.BatchNorm2d(4))
    assert block.freeze() is block and (block.in_channels, block.out_channels, block.stride) == (3, 4, 2)
    assert not any(parameter.requires_grad for parameter in block.parameters())
    assert isinstance(block.conv.norm, layers.FrozenBatchNorm2d)


def test_shape_specs_compare_by_value(layers):
    assert layers.ShapeSpec(channels=3, stride=4) == layers.ShapeSpec(3, None, None, 4)


def test_cat_of_one_tensor_does_not_copy(layers):
    one = torch.ones(2)
    assert layers.cat([one]) is one and layers.cat((one, one), 0).shape == (4,)


@pytest.mark.parametrize("name", NORMS[1:])
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
