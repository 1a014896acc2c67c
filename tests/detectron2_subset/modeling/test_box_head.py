"""The box head on every backend present, and alike on both."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

VARIANTS = {
    "2fc": {"fc_dims": [24, 20]},
    "4conv1fc": {"conv_dims": [32] * 4, "fc_dims": [24], "conv_norm": "BN"},
    "group_norm": {"conv_dims": [32, 64], "fc_dims": [24], "conv_norm": "GN"},
    "naive_sync_bn": {"conv_dims": [32], "fc_dims": [24], "conv_norm": "naiveSyncBN_N"},
    "conv_only": {"conv_dims": [16]},
}


def make(backend, seed=0, **options):
    shape = backend.get("layers").ShapeSpec(channels=6, height=5, width=5)
    torch.manual_seed(seed)
    return backend.get("modeling.roi_heads").FastRCNNConvFCHead(shape, **({"conv_dims": [], "fc_dims": []} | options))


def pooled(count=4):
    return torch.randn(count, 6, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_output_has_the_announced_shape(backend, variant):
    head = make(backend, **VARIANTS[variant])
    spec = head.output_shape
    expected = tuple(side for side in (spec.channels, spec.height, spec.width) if side)
    assert head(pooled()).shape == (4, *expected)
    assert head.eval()(pooled(0)).shape == (0, *expected)


def test_layers_are_numbered_from_one(backend):
    names = [name for name, _ in make(backend, **VARIANTS["4conv1fc"]).named_children()]
    assert names == ["conv1", "conv2", "conv3", "conv4", "flatten", "fc1", "fc_relu1"]
    assert [name for name, _ in make(backend, **VARIANTS["2fc"]).named_children()] == ["flatten", "fc1", "fc_relu1", "fc2", "fc_relu2"]
    assert list(dict(make(backend, **VARIANTS["group_norm"]).conv1.named_parameters())) == ["weight", "norm.weight", "norm.bias"]


def test_two_fc_layers_are_two_rectified_affine_maps(backend):
    head = make(backend, **VARIANTS["2fc"])
    hidden = torch.relu(pooled().flatten(1) @ head.fc1.weight.T + head.fc1.bias)
    assert_close(head(pooled()), torch.relu(hidden @ head.fc2.weight.T + head.fc2.bias))


def test_convolutions_keep_the_size_and_are_rectified(backend):
    out = make(backend, **VARIANTS["conv_only"])(pooled())
    assert out.shape == (4, 16, 5, 5) and (out >= 0).all() and (out > 0).any()


def test_convolutions_start_as_msra_and_fc_layers_as_xavier(backend):
    head = make(backend, conv_dims=[256], fc_dims=[512])
    assert head.conv1.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.03)
    limit = (3 / (256 * 25)) ** 0.5
    assert head.fc1.weight.abs().max() <= limit and head.fc1.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.03)
    assert not head.conv1.bias.any() and not head.fc1.bias.any()


def test_a_head_without_layers_is_refused(backend):
    with pytest.raises(AssertionError):
        make(backend)


def from_config(backend, **options):
    cfg = backend.get("config").get_cfg()
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    for key, value in options.items():
        cfg.MODEL.ROI_BOX_HEAD[key] = value
    return backend.get("modeling").build_box_head(cfg, backend.get("layers").ShapeSpec(channels=6, height=5, width=5))


def test_the_config_describes_4conv1fc(backend):
    head = from_config(backend, NUM_CONV=4, CONV_DIM=8, NUM_FC=1, FC_DIM=12, NORM="BN")
    assert [tuple(p.shape) for n, p in head.named_parameters() if n.endswith("weight") and p.dim() == 4] == [(8, 6, 3, 3)] + [
        (8, 8, 3, 3)
    ] * 3
    assert head.fc1.weight.shape == (12, 200) and isinstance(head.conv4.norm, nn.BatchNorm2d) and head.conv1.bias is None


def test_unknown_box_heads_are_refused(backend):
    with pytest.raises(KeyError, match="NoSuchHead"):
        from_config(backend, NAME="NoSuchHead", NUM_FC=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_backends_compute_alike(subset, real, variant):
    ours, theirs = (make(one, **VARIANTS[variant]) for one in (subset, real))
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape) for k, v in theirs.state_dict().items()]
    ours.load_state_dict(theirs.state_dict())
    assert_close(ours(pooled()), theirs(pooled()), atol=1e-6, rtol=1e-5)
    assert {k: v for k, v in vars(ours.output_shape).items() if v} == {k: v for k, v in vars(theirs.output_shape).items() if v}
