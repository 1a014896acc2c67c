"""The dilated ResNet keeps its outputs, and the FCN head has the branches and the loss of the released code."""

import math

import pytest
import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.modeling.segmentation import FCNHead
from tests.modeling.test_backbone import cfg_for

NARROW = {"MODEL__RESNETS__STEM_OUT_CHANNELS": 8, "MODEL__RESNETS__RES2_OUT_CHANNELS": 16, "MODEL__RESNETS__WIDTH_PER_GROUP": 4}


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("depth", "stride"), [(18, 16), (50, 16), (50, 8), (50, 32)])
def test_a_dilated_network_has_the_old_outputs_among_its_own(depth, stride, padding):
    cfg = cfg_for(depth, **(NARROW if depth == 50 else {}), DETCON__BACKBONE__PADDING=padding, DETCON__SEM_SEG__OUTPUT_STRIDE=stride)
    plain = d2.build_backbone(cfg).eval()
    cfg.MODEL.BACKBONE.NAME = "build_detcon_dilated_resnet_backbone"
    network = d2.build_backbone(cfg).eval()
    network.load_state_dict(plain.state_dict(), strict=True)
    # At sizes 32 k + 1 all paddings begin at the first pixel.
    image, step = torch.randn(1, 3, 65, 97), 32 // stride
    found = network(image)["res5"]
    assert network.output_shape()["res5"].stride == stride and found.shape[-2:] == (64 // stride + 1, 96 // stride + 1)
    torch.testing.assert_close(found[..., ::step, ::step], plain(image)["res5"])


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ({"DETCON__SEM_SEG__OUTPUT_STRIDE": 4}, "OUTPUT_STRIDE is 4; expected 8, 16 or 32"),
        ({"MODEL__RESNETS__STRIDE_IN_1X1": True}, "STRIDE_IN_1X1 is True; expected False"),
    ],
)
def test_networks_that_cannot_be_dilated_are_refused(opts, message):
    cfg = cfg_for(50, MODEL__BACKBONE__NAME="build_detcon_dilated_resnet_backbone", **NARROW, **opts)
    with pytest.raises(ValueError, match=message):
        d2.build_backbone(cfg)


FEATURES = {"res4": d2.ShapeSpec(channels=6, stride=16), "res5": d2.ShapeSpec(channels=10, stride=16)}


def make_head(**overrides: object) -> FCNHead:
    cfg = cfg_for(50, MODEL__SEM_SEG_HEAD__NUM_CLASSES=3, MODEL__SEM_SEG_HEAD__CONVS_DIM=4, MODEL__SEM_SEG_HEAD__NORM="BN")
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res4", "res5"]
    cfg.merge_from_list([str(item) for key, value in overrides.items() for item in (f"DETCON.SEM_SEG.{key}", value)])
    return FCNHead(cfg, FEATURES)


def describe(head: FCNHead) -> list[tuple]:
    convs = [module for module in head.modules() if isinstance(module, nn.Conv2d)]
    return [(one.in_channels, one.out_channels, one.kernel_size[0], one.dilation[0]) for one in convs]


def test_the_heads_of_both_styles_have_their_convolutions():
    assert describe(make_head()) == [(10, 4, 3, 6), (4, 4, 3, 6), (4, 3, 1, 1)]
    head = make_head(DILATION=1, CONCAT_INPUT=True, DROPOUT=0.1, AUXILIARY_WEIGHT=0.4)
    assert describe(head) == [(10, 4, 3, 1), (4, 4, 3, 1), (14, 4, 3, 1), (4, 3, 1, 1), (6, 2, 3, 1), (2, 3, 1, 1)]
    assert [one.p for one in head.modules() if isinstance(one, nn.Dropout2d)] == [0.1, 0.1]
    assert sum(isinstance(one, nn.BatchNorm2d) for one in head.modules()) == 4


def test_the_loss_is_the_mean_over_all_pixels_and_the_auxiliary_one_is_for_training_only():
    head = make_head(AUXILIARY_WEIGHT=0.4)
    features = {name: torch.randn(2, shape.channels, 5, 5) for name, shape in FEATURES.items()}
    for branch in (head.main, head.auxiliary):
        nn.init.zeros_(branch.predictor.weight)  # all classes are equally likely
    targets = torch.zeros(2, 9, 9, dtype=torch.long)
    targets[1] = 255
    _, losses = head(features, targets)
    expected = math.log(3) / 2  # half of the pixels are ignored and add nothing
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {"loss_sem_seg": expected, "loss_sem_seg_auxiliary": 0.4 * expected}
    )
    assert head(features, torch.full_like(targets, 255))[1]["loss_sem_seg"] == 0
    logits, losses = head.eval()(features)
    assert logits.shape == (2, 3, 5, 5) and losses == {}


@pytest.mark.parametrize(("align", "expected"), [(True, [0.0, 0.25, 0.5, 0.75, 1.0]), (False, [0.0, 0.1, 0.5, 0.9, 1.0])])
def test_logits_are_enlarged_with_the_corners_of_the_style(align, expected):
    found = make_head(ALIGN_CORNERS=align).enlarge(torch.tensor([[[[0.0, 1.0]]]]), (1, 5))
    assert found.flatten().tolist() == pytest.approx(expected)
