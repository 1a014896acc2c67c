"""The feature pyramid, on both backends, and alike."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.ops import FeaturePyramidNetwork

CHANNELS = {"res2": 8, "res3": 12, "res4": 16}


def make_bottom_up(backend):
    """A backbone whose maps are its images, averaged over cells and repeated: exact, without parameters."""

    class Cells(backend.get("modeling.backbone").Backbone):
        def __init__(self) -> None:
            super().__init__()
            self._out_features, self._out_feature_channels = list(CHANNELS), CHANNELS
            self._out_feature_strides = {name: 2 ** int(name[3:]) for name in CHANNELS}

        def forward(self, x):
            cells = {name: nn.functional.avg_pool2d(x, stride) for name, stride in self._out_feature_strides.items()}
            return {n: cells[n].repeat(1, c, 1, 1)[:, :c] * torch.arange(1, c + 1)[:, None, None] for n, c in CHANNELS.items()}

    return Cells()


def make(backend, in_features=("res2", "res3", "res4"), out_channels=32, **options):
    torch.manual_seed(0)
    return backend.get("modeling").FPN(make_bottom_up(backend), list(in_features), out_channels, **options)


def images(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_parameters_are_named_by_the_level_and_start_as_xavier(backend):
    net, parts = (
        make(backend, out_channels=64),
        ("fpn_lateral2", "fpn_output2", "fpn_lateral3", "fpn_output3", "fpn_lateral4", "fpn_output4"),
    )
    assert list(net.state_dict()) == [f"{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    assert [name for name, _ in make(backend, norm="BN").fpn_lateral3.named_parameters()] == ["weight", "norm.weight", "norm.bias"]
    weight, limit = net.fpn_output2.weight, (3 / (64 * 9)) ** 0.5
    assert weight.abs().max() <= limit and weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)
    assert net.fpn_lateral3.weight.shape == (64, 12, 1, 1) and not net.fpn_lateral4.bias.any()


def test_the_sum_is_that_of_the_pyramid_of_torchvision(backend):
    net = make(backend)
    reference = FeaturePyramidNetwork(list(CHANNELS.values()), 32)
    for position, level in enumerate((2, 3, 4)):
        for kind, blocks in (("lateral", reference.inner_blocks), ("output", reference.layer_blocks)):
            blocks[position][0].load_state_dict(getattr(net, f"fpn_{kind}{level}").state_dict())
    maps = net(images())
    for name, value in zip(("p2", "p3", "p4"), reference(net.bottom_up(images())).values(), strict=True):
        assert_close(maps[name], value)
    assert {name: (s.channels, s.stride) for name, s in net.output_shape().items()} == {"p2": (32, 4), "p3": (32, 8), "p4": (32, 16)}
    assert net.size_divisibility == 16


def test_the_average_halves_the_sum_of_two_levels(backend):
    total, mean = make(backend, ("res3", "res4")), make(backend, ("res3", "res4"), fuse_type="avg")
    summed, averaged, bias = total(images()), mean(images()), total.fpn_output3.bias[:, None, None]
    assert_close(averaged["p3"] - bias, (summed["p3"] - bias) / 2)
    assert_close(averaged["p4"], summed["p4"])


@pytest.mark.parametrize("source", ["p4", "res4"])
def test_a_top_block_continues_from_the_pyramid_or_the_backbone(backend, source):
    block = backend.get("modeling.backbone.fpn").LastLevelMaxPool()
    assert (block.num_levels, block.in_feature) == (1, "p5")
    block.in_feature = source
    net = make(backend, top_block=block)
    maps = net(images())
    start = maps["p4"] if source == "p4" else net.bottom_up(images())["res4"]
    assert list(maps) == ["p2", "p3", "p4", "p5"] and net.output_shape()["p5"].stride == 32
    assert_close(maps["p5"], start[:, :, ::2, ::2])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"in_features": ("res2", "res4")}, AssertionError),
        ({"in_features": ("res3", "res2")}, AssertionError),
        ({"in_features": ()}, AssertionError),
        ({"fuse_type": "max"}, AssertionError),
        ({"in_features": ("res9",)}, KeyError),
        ({"norm": "NoSuchNorm"}, KeyError),
    ],
)
def test_impossible_pyramids_are_refused(backend, options, error):
    with pytest.raises(error):
        make(backend, **options)


def build(backend, **options):
    """The registered backbone, narrow; ``A__B=c`` overrides MODEL.A.B."""
    cfg = backend.get("config").get_cfg()
    features = ["res2", "res3", "res4", "res5"]
    values = {"BACKBONE__NAME": "build_resnet_fpn_backbone", "BACKBONE__FREEZE_AT": 1, "RESNETS__OUT_FEATURES": features}
    values |= {"FPN__IN_FEATURES": features, "FPN__OUT_CHANNELS": 32, "RESNETS__WIDTH_PER_GROUP": 8, "RESNETS__RES2_OUT_CHANNELS": 32}
    values |= {"RESNETS__STEM_OUT_CHANNELS": 8} | options
    cfg.merge_from_list([item for key, value in values.items() for item in (f"MODEL.{key.replace('__', '.')}", value)])
    torch.manual_seed(0)
    return backend.get("modeling").build_backbone(cfg)


def test_the_registered_backbone_is_a_pyramid_on_a_resnet(backend):
    net = build(backend)
    sides = {name: tuple(value.shape[2:]) for name, value in net(images(64)).items()}
    assert sides == {"p2": (16, 16), "p3": (8, 8), "p4": (4, 4), "p5": (2, 2), "p6": (1, 1)}
    assert net.size_divisibility == 32 and not net.bottom_up.stem.conv1.weight.requires_grad


@pytest.mark.parametrize("options", [{"FPN__NORM": "GN", "FPN__FUSE_TYPE": "avg"}, {"FPN__NORM": "naiveSyncBN", "RESNETS__NORM": "BN"}])
def test_both_backends_give_the_same_maps_and_gradients(subset, real, options):
    ours, theirs = build(subset, **options), build(real, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    maps = [net(images(64)) for net in (ours, theirs)]
    assert list(maps[0]) == list(maps[1])
    assert_close(maps[0], maps[1], atol=1e-5, rtol=1e-5)
    for one in maps:
        sum(value.square().mean() for value in one.values()).backward()
    for (name, our), (_, their) in zip(ours.named_parameters(), theirs.named_parameters()):
        assert (our.grad is None) == (their.grad is None), name
        if their.grad is not None:
            assert (our.grad - their.grad).abs().max() <= 1e-5 * max(their.grad.abs().max().item(), 1.0), name
