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
