"""ResNet has Detectron2's names, options and numbers: checked against the real one where it is present."""

import pytest
import torch
from torch import nn

DEPTHS = {18: {"RES2_OUT_CHANNELS": 64}, 50: {}, 101: {}}
SMALL = {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 32, "WIDTH_PER_GROUP": 32, "NORM": "BN"}
VARIANTS = {
    "stride_in_1x1": {"STRIDE_IN_1X1": True},
    "stride_in_3x3": {"STRIDE_IN_1X1": False},
    "dilated": {"RES5_DILATION": 2, "STRIDE_IN_1X1": False},
    "grouped": {"NUM_GROUPS": 4, "WIDTH_PER_GROUP": 8},
    "frozen": {"FREEZE_AT": 3},
    "all_frozen": {"FREEZE_AT": 5},
    "up_to_res3": {"OUT_FEATURES": ["stem", "res3"]},
    "basic_blocks": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
}


def build(backend, **options):
    """A backbone from the default config with keys of MODEL.RESNETS, or FREEZE_AT, replaced."""
    cfg = backend.get("config").get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = options.pop("FREEZE_AT", 0)
    for key, value in options.items():
        cfg.MODEL.RESNETS[key] = value
    return backend.get("modeling").build_backbone(cfg)


def blocks(backend):
    return backend.get("modeling.backbone.resnet")


def test_the_default_config_gives_resnet50_up_to_res4_with_two_frozen_stages(backend):
    cfg = backend.get("config").get_cfg()
    net = backend.get("modeling").build_backbone(cfg)
    assert {name: (spec.channels, spec.stride) for name, spec in net.output_shape().items()} == {"res4": (1024, 16)}
    assert [name for name, _ in net.named_children()] == ["stem", "res2", "res3", "res4"]
    trained = {name.split(".")[0] for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained == {"res3", "res4"}
    assert net.size_divisibility == 0 and net.padding_constraints == {}


def test_features_have_the_announced_channels_and_strides(backend):
    features = ["stem", "res2", "res3", "res4", "res5"]
    net = build(backend, **SMALL, OUT_FEATURES=features)
    outputs, shapes = net(torch.randn(2, 3, 64, 96)), net.output_shape()
    assert list(outputs) == features
    for name in features:
        stride = shapes[name].stride
        assert outputs[name].shape == (2, shapes[name].channels, 64 // stride, 96 // stride)


def test_a_classifier_sits_on_the_mean_of_the_last_map(backend):
    resnet = blocks(backend)
    stages = [resnet.ResNet.make_stage(resnet.BasicBlock, 1, in_channels=8, out_channels=16, stride=2, norm="BN")]
    net = resnet.ResNet(resnet.BasicStem(3, 8), stages, num_classes=5, out_features=["res2", "linear"])
    outputs = net(torch.randn(2, 3, 32, 32))
    assert torch.allclose(outputs["linear"], net.linear(outputs["res2"].mean((2, 3))), atol=1e-6)


def test_make_stage_gives_each_block_its_own_arguments(backend):
    resnet = blocks(backend)
    options = {"in_channels": 16, "out_channels": 64, "bottleneck_channels": 16}
    stage = resnet.ResNet.make_stage(resnet.BottleneckBlock, 3, stride_per_block=[2, 1, 1], dilation_per_block=[1, 1, 2], **options)
    found = [(block.in_channels, block.out_channels, block.stride, block.conv2.dilation[0]) for block in stage]
    assert found == [(16, 64, 2, 1), (64, 64, 1, 1), (64, 64, 1, 2)]
    for wrong in ({"stride_per_block": [2, 1]}, {"stride_per_block": [2, 1, 1], "stride": 1}):
        with pytest.raises(AssertionError):
            resnet.ResNet.make_stage(resnet.BottleneckBlock, 3, **wrong, **options)


def test_a_projection_is_there_only_where_channels_change(backend):
    resnet = blocks(backend)
    assert resnet.BasicBlock(8, 8).shortcut is None
    assert resnet.BasicBlock(8, 16, stride=2).shortcut.stride == (2, 2)


def test_freezing_turns_batch_norm_into_constants_stage_by_stage(backend):
    net = build(backend, **SMALL, OUT_FEATURES=["res4"], FREEZE_AT=2)
    kinds = {name.split(".")[0]: set() for name, _ in net.named_modules() if name}
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d | backend.get("layers").FrozenBatchNorm2d):
            kinds[name.split(".")[0]].add(type(module).__name__)
    assert kinds == {"stem": {"FrozenBatchNorm2d"}, "res2": {"FrozenBatchNorm2d"}, "res3": {"BatchNorm2d"}, "res4": {"BatchNorm2d"}}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"OUT_FEATURES": ["res9"]}, AssertionError),
        ({"RES5_DILATION": 3}, AssertionError),
        ({"DEPTH": 18}, AssertionError),
        ({"DEPTH": 42}, KeyError),
        ({"DEFORM_ON_PER_STAGE": [False, True, True, True]}, (NotImplementedError, ImportError)),
    ],
)
def test_options_that_do_not_exist_are_refused(backend, options, error):
    with pytest.raises(error):
        build(backend, **options)


def test_unknown_backbones_and_inputs_are_refused(backend):
    cfg = backend.get("config").get_cfg()
    cfg.MODEL.BACKBONE.NAME = "no_such_backbone"
    with pytest.raises(KeyError, match="no_such_backbone"):
        backend.get("modeling").build_backbone(cfg)
    with pytest.raises(AssertionError):
        build(backend, **SMALL)(torch.randn(3, 32, 32))


def test_convolutions_start_as_msra_fan_out(backend):
    weight = blocks(backend).BottleneckBlock(64, 64, bottleneck_channels=256).conv2.weight
    assert abs(weight.mean().item()) < 1e-3
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)


def test_models_are_built_by_name_on_the_configured_device(backend):
    modeling = backend.get("modeling")

    class Probe(nn.Module):
        def __init__(self, cfg) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

    name = f"DetConTestModel_{backend.name}"
    if name not in modeling.META_ARCH_REGISTRY:
        modeling.META_ARCH_REGISTRY._do_register(name, Probe)
    cfg = backend.get("config").get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = name, "meta"
    assert modeling.build_model(cfg).weight.device.type == "meta"


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN", ""])
def test_both_backends_name_and_shape_all_parameters_alike(subset, real, depth, norm):
    options = {"DEPTH": depth, "NORM": norm, "OUT_FEATURES": ["res2", "res5"], **DEPTHS[depth]}
    with torch.device("meta"):
        ours, theirs = (build(one, **options) for one in (subset, real))
    shapes = [[(key, value.shape) for key, value in net.state_dict().items()] for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert {k: vars(v) for k, v in ours.output_shape().items()} == {k: vars(v) for k, v in theirs.output_shape().items()}


def assert_same_outputs_and_gradients(ours: nn.Module, theirs: nn.Module, size: int = 64) -> None:
    """With the weights of ``theirs``: outputs to 1e-5, gradients to 1e-5 of their largest entry, statistics to 1e-5."""
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    outputs = []
    for net in (ours, theirs):
        out = net(x)
        outputs.append(out)
        loss = sum(value.square().mean() for value in out.values())
        if loss.requires_grad:
            loss.backward()
    for name, value in outputs[1].items():
        assert torch.allclose(outputs[0][name], value, atol=1e-5, rtol=1e-5), name
    for (name, our), (_, their) in zip(ours.named_parameters(), theirs.named_parameters()):
        assert our.requires_grad == their.requires_grad and (our.grad is None) == (their.grad is None), name
        if their.grad is not None:
            assert (our.grad - their.grad).abs().max() <= 1e-5 * max(their.grad.abs().max().item(), 1.0), name
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name].float(), value.float(), atol=1e-5), name


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "naiveSyncBN", "GN", "LN"])
def test_both_backends_compute_alike_with_every_norm(subset, real, norm):
    torch.manual_seed(0)
    options = {**SMALL, "NORM": norm, "OUT_FEATURES": ["res3", "res5"]}
    if norm == "GN":
        options |= {"STEM_OUT_CHANNELS": 32}
    assert_same_outputs_and_gradients(build(subset, **options), build(real, **options))


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_backends_compute_alike_in_every_variant(subset, real, variant):
    torch.manual_seed(0)
    options = {**SMALL, "OUT_FEATURES": ["res5"], **VARIANTS[variant]}
    assert_same_outputs_and_gradients(build(subset, **options), build(real, **options))


@pytest.mark.parametrize("depth", DEPTHS)
def test_both_backends_compute_alike_at_full_width(subset, real, depth):
    torch.manual_seed(0)
    options = {"DEPTH": depth, "NORM": "SyncBN", "OUT_FEATURES": ["res4", "res5"], "STRIDE_IN_1X1": False, **DEPTHS[depth]}
    ours, theirs = (build(one, **options).eval() for one in (subset, real))
    assert_same_outputs_and_gradients(ours, theirs)


def test_default_stages_are_the_same_on_both_backends(subset, real):
    for depth in (34, 152):
        with torch.device("meta"):
            stages = [blocks(one).ResNet.make_default_stages(depth, norm="BN") for one in (subset, real)]
        described = [[[(b.in_channels, b.out_channels, b.stride) for b in stage] for stage in one] for one in stages]
        assert described[0] == described[1]
