"""Our registered backbone is Detectron2's, plus depth 200 and width."""

import pytest
import torch

from detcon_d2 import add_detcon_config, d2
from detcon_d2.modeling.backbone import zero_init_residual


def cfg_for(depth: int, **overrides: object) -> "d2.CfgNode":
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_detcon_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    if depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.merge_from_list([str(item) for key, value in overrides.items() for item in (key.replace("__", "."), value)])
    return cfg


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_same_names_shapes_and_outputs_as_detectron2s(depth):
    cfg = cfg_for(depth)
    ours = d2.build_backbone(cfg).eval()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    theirs = d2.build_backbone(cfg).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(image)["res5"], theirs(image)["res5"])
    assert ours.output_shape() == theirs.output_shape()


def test_depth_200_has_the_blocks_of_the_released_model():
    backbone = d2.build_backbone(
        cfg_for(200, MODEL__RESNETS__STEM_OUT_CHANNELS=4, MODEL__RESNETS__RES2_OUT_CHANNELS=16, MODEL__RESNETS__WIDTH_PER_GROUP=4)
    )
    assert [len(getattr(backbone, f"res{i}")) for i in range(2, 6)] == [3, 24, 36, 3]


def test_width_multiplier_scales_every_stage():
    backbone = d2.build_backbone(cfg_for(50, DETCON__WIDTH_MULTIPLIER=2))
    assert backbone.output_shape()["res5"].channels == 4096
    assert backbone.stem.conv1.out_channels == 128 and backbone.res2[0].conv1.out_channels == 128


def test_stages_above_the_last_output_are_not_built():
    backbone = d2.build_backbone(cfg_for(50, MODEL__RESNETS__OUT_FEATURES="['res4']"))
    assert not hasattr(backbone, "res5") and hasattr(backbone, "res4")


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_dilated_basic_blocks_have_the_outputs_of_stride_2_and_others_between(padding):
    overrides = {"DETCON__BACKBONE__PADDING": padding}
    plain, dilated = (d2.build_backbone(cfg_for(18, MODEL__RESNETS__RES5_DILATION=n, **overrides)).eval() for n in (1, 2))
    dilated.load_state_dict(plain.state_dict())
    # Of 97 px, 7 x 7 cells have those of stride 2 at even places.
    images = torch.randn(2, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = plain(images)["res5"], dilated(images)["res5"]
    assert expected.shape[2:] == (4, 4) and found.shape[2:] == (7, 7)
    torch.testing.assert_close(found[:, :, ::2, ::2], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [18, 50])
def test_our_pyramid_has_the_names_and_outputs_of_detectron2s(depth):
    cfg = cfg_for(depth, MODEL__RESNETS__OUT_FEATURES="['res2', 'res3', 'res4', 'res5']", MODEL__FPN__NORM="BN")
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.NAME = "build_detcon_resnet_fpn_backbone"
    ours = d2.build_backbone(cfg).eval()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    theirs = d2.build_backbone(cfg).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert ours.output_shape() == theirs.output_shape() and list(ours.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(image), theirs(image))


def test_the_pyramid_of_a_network_that_ends_early_has_one_level_above_its_last_stage():
    cfg = cfg_for(18, MODEL__RESNETS__OUT_FEATURES="['res2', 'res3', 'res4']", MODEL__FPN__OUT_CHANNELS=8)
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4"]
    cfg.MODEL.BACKBONE.NAME = "build_detcon_resnet_fpn_backbone"
    backbone = d2.build_backbone(cfg).eval()
    assert not any("res5" in name for name in backbone.state_dict())
    maps = backbone(torch.randn(1, 3, 64, 64))
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    assert list(maps) == ["p2", "p3", "p4", "p5"] and torch.equal(maps["p5"], maps["p4"][:, :, ::2, ::2])


def test_the_pyramid_stands_on_depth_200_and_wide_networks():
    narrow = {"MODEL__RESNETS__STEM_OUT_CHANNELS": 4, "MODEL__RESNETS__RES2_OUT_CHANNELS": 16, "MODEL__RESNETS__WIDTH_PER_GROUP": 4}
    stages = {"MODEL__RESNETS__OUT_FEATURES": "['res2', 'res3', 'res4', 'res5']", "MODEL__FPN__OUT_CHANNELS": 8}
    cfg = cfg_for(200, DETCON__WIDTH_MULTIPLIER=2, **narrow, **stages)
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.NAME = "build_detcon_resnet_fpn_backbone"
    backbone = d2.build_backbone(cfg)
    assert backbone.bottom_up.output_shape()["res5"].channels == 256 and len(backbone.bottom_up.res4) == 36
    assert {shape.channels for shape in backbone.output_shape().values()} == {8}


def test_unknown_depth_and_wrong_channels_are_named():
    with pytest.raises(ValueError, match=r"MODEL.RESNETS.DEPTH is 51; expected one of 18, 34, 50, 101, 152, 200"):
        d2.build_backbone(cfg_for(51))
    with pytest.raises(ValueError, match=r"RES2_OUT_CHANNELS is 256; a ResNet-18 has 64"):
        d2.build_backbone(cfg_for(18, MODEL__RESNETS__RES2_OUT_CHANNELS=256))


@pytest.mark.parametrize("depth", [18, 50])
def test_zeroed_blocks_are_their_shortcuts(depth):
    backbone = d2.build_backbone(cfg_for(depth)).eval()
    assert zero_init_residual(backbone) == {18: 8, 50: 16}[depth]
    block = backbone.res2[1]
    x = torch.rand(1, backbone.output_shape()["res5"].channels // 8, 8, 8)
    torch.testing.assert_close(block(x), x)
