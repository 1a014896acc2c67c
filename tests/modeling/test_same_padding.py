"""SAME padding is that of the released JAX code at every stage and size, and costs no parameter name, shape or random number."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.engine.finetune.setup import check_finetuning_config
from detcon_d2.engine.setup import check_pretraining_config, load_config
from detcon_d2.modeling.same_padding import SameConv2d, SameStem, same_padding, use_same_padding
from tests.conftest import REPO
from tests.detectors import BASE
from tests.methods.test_detcon import batch, build
from tests.modeling.test_backbone import cfg_for

STAGES = ("stem", "res2", "res3", "res4", "res5")
SIZES = ("64x96", "65x97", "72x110")
SAME = {"DETCON__BACKBONE__PADDING": "same"}
TINY_50 = {"MODEL__RESNETS__STEM_OUT_CHANNELS": 8, "MODEL__RESNETS__RES2_OUT_CHANNELS": 16, "MODEL__RESNETS__WIDTH_PER_GROUP": 4}
ALL_STAGES = {"MODEL__RESNETS__OUT_FEATURES": "['res2', 'res3', 'res4', 'res5']"}


def both(depth: int = 50, **overrides: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The plain network and the one with SAME padding, with the same weights, in evaluation."""
    overrides = (TINY_50 if depth == 50 else {}) | ALL_STAGES | overrides
    networks = []
    for padding in ({}, SAME):
        torch.manual_seed(0)
        networks.append(d2.build_backbone(cfg_for(depth, **overrides, **padding)).eval())
    return networks[0], networks[1]


@pytest.fixture(scope="module")
def tiny(fixtures_dir) -> dict[str, np.ndarray]:
    """Weights, images and activations of the released code's small ResNet."""
    with np.load(fixtures_dir / "haiku_tiny.npz") as archive:
        return {key: archive[key] for key in archive.files}


def haiku_tiny(arrays: dict[str, np.ndarray], padding: str) -> "d2.ResNet":
    """That ResNet: no registered depth, so its stages are made here, of the same parts."""
    stages, in_channels = [], 64
    for index, (blocks, channels) in enumerate(zip((2, 1, 2, 1), (32, 64, 96, 128), strict=True)):
        kwargs = {"bottleneck_channels": channels // 4, "stride_per_block": [1 if index == 0 else 2] + [1] * (blocks - 1), "norm": "BN"}
        stages.append(d2.ResNet.make_stage(d2.BottleneckBlock, blocks, in_channels=in_channels, out_channels=channels, **kwargs))
        in_channels = channels
    stem = (SameStem if padding == "same" else d2.BasicStem)(3, 64, norm="BN")
    network = d2.ResNet(stem, stages, out_features=list(STAGES))
    if padding == "same":
        assert use_same_padding(network) == 4
    weights = {key.removeprefix("weights/"): torch.from_numpy(value) for key, value in arrays.items() if key.startswith("weights/")}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    return network.eval()


def normalised(image: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> (N, 3, H, W) by ImageNet's statistics, float64."""
    mean, std = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64), torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
    return ((torch.from_numpy(image) / 255.0 - mean) / std).permute(0, 3, 1, 2)


@pytest.mark.parametrize("padding", ["same", "torchpad"])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_every_stage_is_that_of_the_released_code(tiny, size, padding):
    features = haiku_tiny(tiny, padding)(normalised(tiny[f"{size}/image_uint8_nhwc"]).float())
    for stage in STAGES:
        found, expected = features[stage].permute(0, 2, 3, 1)[..., ::4].numpy(), tiny[f"{size}/{padding}/{stage}"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4, err_msg=stage)


@pytest.mark.parametrize("padding", ["same", "torchpad"])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_in_float64_every_channel_of_the_oracle_agrees_to_ten_digits(tiny, shared_dir, size, padding):
    with np.load(shared_dir / "oracles" / "haiku_tiny_activations.npz") as oracle:
        features = haiku_tiny(tiny, padding).double()(
            torch.from_numpy(oracle[f"{size}/input_normalised_nhwc"]).double().permute(0, 3, 1, 2)
        )
        for stage in STAGES:
            expected = oracle[f"{size}/{padding}_f64/{stage}"]
            np.testing.assert_allclose(features[stage].permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=1e-9, err_msg=stage)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "expected"),
    [
        (224, 7, 2, 1, (2, 3)),
        (112, 3, 2, 1, (0, 1)),
        (225, 7, 2, 1, (3, 3)),
        (113, 3, 2, 1, (1, 1)),
        (7, 3, 1, 1, (1, 1)),
        (7, 3, 1, 2, (2, 2)),
        (14, 3, 2, 2, (1, 2)),
        (15, 3, 2, 2, (2, 2)),
        (10, 3, 3, 1, (1, 1)),
        (11, 3, 3, 1, (0, 1)),
        (14, 1, 2, 1, (0, 0)),
        (1, 7, 2, 1, (3, 3)),
    ],
)
def test_padding_of_one_axis(size, kernel, stride, dilation, expected):
    assert same_padding(size, kernel, stride, dilation) == expected


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_stride_1_and_odd_sizes_at_stride_2_are_padded_as_by_detectron2(kernel):
    for size in range(1, 34):
        assert same_padding(size, kernel, 1) == (kernel // 2, kernel // 2)
        # A window of one tap takes pixels 0, 2, 4 ... in both cases.
        expected = (kernel // 2 - (size % 2 == 0), kernel // 2) if kernel > 1 else (0, 0)
        assert same_padding(size, kernel, 2) == expected, size


@pytest.mark.parametrize(
    "options", [{}, {"dilation": 2}, {"groups": 2, "stride": (2, 1)}, {"stride": 3, "bias": True}, {"kernel_size": (7, 3)}]
)
@pytest.mark.parametrize("size", [(8, 8), (9, 8), (10, 13), (11, 11), (2, 1)])
def test_convolution_reads_the_windows_that_same_padding_says(options, size):
    options = {"kernel_size": 3, "stride": 2, "bias": False} | options
    conv = SameConv2d.from_conv(d2.Conv2d(4, 6, norm=d2.get_norm("BN", 6), activation=F.relu, **options)).double().eval()
    x, margin = torch.randn(2, 4, *size, dtype=torch.float64), 16
    # Every window of a wide frame of zeros; of them those that begin `before` pixels outside the map, and every stride after.
    dense = F.conv2d(F.pad(x, (margin,) * 4), conv.weight, conv.bias, dilation=conv.dilation, groups=conv.groups)
    for axis in range(2):
        n, stride = size[axis], conv.stride[axis]
        before, _ = same_padding(n, conv.kernel_size[axis], stride, conv.dilation[axis])
        dense = dense.index_select(axis + 2, torch.arange(0, n, stride) + margin - before)
    torch.testing.assert_close(conv(x), F.relu(conv.norm(dense)))


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (13, 7), (2, 1), (1, 2)])
def test_pooling_takes_the_largest_of_each_window_and_nothing_of_the_padding(size):
    stem = SameStem(3, 4, norm="BN").eval()
    stem.conv1 = torch.nn.Identity()
    x = torch.randn(2, 4, *size).abs() + 0.1
    (top, bottom), (left, right) = (same_padding(n, 3, 2) for n in size)
    padded = F.pad(x, (left, right, top, bottom), value=-torch.inf)
    torch.testing.assert_close(stem(x.clone()), padded.unfold(2, 3, 2).unfold(3, 3, 2).amax((-2, -1)), rtol=0, atol=0)


@pytest.mark.parametrize(("depth", "where"), [(18, "conv1"), (50, "conv2")])
def test_only_strided_windows_are_replaced_and_parameters_keep_names_and_values(depth, where):
    plain, same = both(depth)
    replaced = {name for name, module in same.named_modules() if isinstance(module, SameConv2d)}
    assert replaced == {"stem.conv1"} | {f"res{stage}.0.{where}" for stage in (3, 4, 5)} and isinstance(same.stem, SameStem)
    assert list(same.state_dict()) == list(plain.state_dict())
    for (name, ours), theirs in zip(same.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert same.output_shape() == plain.output_shape()


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("size", [(33, 65), (97, 33), (1, 1)])
@torch.no_grad()
def test_sizes_32k_plus_1_are_bit_equal_to_the_plain_backbone(depth, size):
    image = torch.randn(1, 3, *size)
    ours, theirs = (network(image) for network in both(depth))
    assert all(torch.equal(ours[stage], theirs[stage]) for stage in ours)


@pytest.mark.parametrize("size", [(32, 64), (31, 50), (47, 34), (35, 36), (63, 100), (2, 3)])
@torch.no_grad()
def test_maps_have_the_size_of_the_plain_backbones_at_every_input_size(size):
    plain, same = (network(torch.randn(1, 3, *size)) for network in both())
    for stage, stride in zip(plain, (4, 8, 16, 32), strict=True):
        assert same[stage].shape == plain[stage].shape and same[stage].shape[-2:] == tuple(-(-side // stride) for side in size)


@torch.no_grad()
def test_the_stride_in_a_1x1_convolution_and_a_dilated_res5_need_no_padding_of_their_own():
    image = torch.randn(1, 3, 64, 80)
    for overrides, replaced in (({"MODEL__RESNETS__STRIDE_IN_1X1": True}, 1), ({"MODEL__RESNETS__RES5_DILATION": 2}, 3)):
        plain, same = both(**overrides)
        assert sum(isinstance(module, SameConv2d) for module in same.modules()) == replaced
        # From the stage on whose convolutions are the plain ones, equal inputs give equal outputs.
        x = torch.randn_like(same(image)["res4"])
        torch.testing.assert_close(same.res5(x), plain.res5(x), rtol=0, atol=0)
        assert same.output_shape() == plain.output_shape()


def test_training_in_bfloat16_and_channels_last_keeps_format_and_reaches_every_parameter():
    network = both()[1].train().to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        features = network(image)
    assert features["res5"].is_contiguous(memory_format=torch.channels_last)
    sum(feature.float().square().mean() for feature in features.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@torch.no_grad()
def test_the_pyramid_has_shapes_and_names_of_the_plain_one_over_other_features():
    overrides = TINY_50 | ALL_STAGES | {"MODEL__FPN__OUT_CHANNELS": 8, "MODEL__FPN__IN_FEATURES": "['res2', 'res3', 'res4', 'res5']"}
    cfg = cfg_for(50, **overrides, **SAME, MODEL__BACKBONE__NAME="build_detcon_resnet_fpn_backbone")
    same = d2.build_backbone(cfg).eval()
    cfg.DETCON.BACKBONE.PADDING, cfg.MODEL.BACKBONE.NAME = "symmetric", "build_resnet_fpn_backbone"
    plain = d2.build_backbone(cfg).eval()
    plain.load_state_dict(same.state_dict(), strict=True)
    assert same.output_shape() == plain.output_shape() and same.size_divisibility == plain.size_divisibility
    image = torch.randn(1, 3, 64, 96)
    for name, expected in plain(image).items():
        found = same(image)[name]
        assert found.shape == expected.shape and (found - expected).norm() > 0.01 * expected.norm(), name


@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_pretraining_uses_it_in_every_encoder(architecture):
    model = build(MODEL__META_ARCHITECTURE=architecture, **SAME)
    plain = build(MODEL__META_ARCHITECTURE=architecture)
    model.load_state_dict(plain.state_dict(), strict=True)
    for encoder in [model.encoder] + ([model.target["encoder"]] if architecture == "DetConB" else []):
        assert sum(isinstance(module, SameConv2d) for module in encoder.modules()) == 4
    with d2.EventStorage():
        loss, other = model(batch())["loss_detcon"], plain(batch())["loss_detcon"]
    loss.backward()
    assert loss.isfinite() and loss.item() != other.item() and model.encoder.stem.conv1.weight.grad.any()


def test_an_unknown_padding_is_named():
    with pytest.raises(ValueError, match=r"DETCON.BACKBONE.PADDING is 'valid'; expected 'symmetric' or 'same'"):
        d2.build_backbone(cfg_for(50, DETCON__BACKBONE__PADDING="valid"))


PRETRAINING = str(REPO / "configs" / "Base-DetCon.yaml")


@pytest.mark.parametrize(
    ("config", "check", "name"),
    [(PRETRAINING, check_pretraining_config, "build_resnet_backbone"), (BASE, check_finetuning_config, "build_resnet_fpn_backbone")],
)
def test_a_backbone_that_would_ignore_it_is_refused(config, check, name):
    ours = name.replace("build_", "build_detcon_")
    message = rf"DETCON.BACKBONE.PADDING is 'same', which MODEL.BACKBONE.NAME '{name}' would ignore; expected '{ours}'"
    with pytest.raises(ValueError, match=message):
        check(load_config(config, ["MODEL.BACKBONE.NAME", name, "DETCON.BACKBONE.PADDING", "same"]), 1)
    check(load_config(config, ["MODEL.BACKBONE.NAME", name]), 1)
    check(load_config(config, ["MODEL.BACKBONE.NAME", ours, "DETCON.BACKBONE.PADDING", "same"]), 1)
