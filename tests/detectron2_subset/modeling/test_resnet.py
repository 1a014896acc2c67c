"""ResNet has the names, options and numbers of Detectron2's."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

DEPTHS = {18: {"RES2_OUT_CHANNELS": 64}, 34: {"RES2_OUT_CHANNELS": 64}, 50: {}, 101: {}, 152: {}}
SMALL = {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 32, "WIDTH_PER_GROUP": 32, "NORM": "BN"}
VARIANTS = {
    "stride_in_1x1": {"STRIDE_IN_1X1": True},
    "dilated": {"RES5_DILATION": 2, "STRIDE_IN_1X1": False},
    "grouped": {"NUM_GROUPS": 4, "WIDTH_PER_GROUP": 8},
    "frozen": {"FREEZE_AT": 3},
    "all_frozen": {"FREEZE_AT": 5},
    "up_to_res3": {"OUT_FEATURES": ["stem", "res3"]},
    "basic_blocks": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
    "frozen_norm": {"NORM": "FrozenBN"},
    "naive_sync_bn": {"NORM": "naiveSyncBN"},
    "group_norm": {"NORM": "GN", "STEM_OUT_CHANNELS": 32},
    "layer_norm": {"NORM": "LN"},
}


def build(backend, **options):
    """A backbone from the default config, with other values for keys of MODEL.RESNETS, or FREEZE_AT."""
    cfg = backend.get("config").get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = options.pop("FREEZE_AT", 0)
    for key, value in options.items():
        cfg.MODEL.RESNETS[key] = value
    return backend.get("modeling").build_backbone(cfg)


def blocks(backend):
    return backend.get("modeling.backbone.resnet")


def test_the_default_config_gives_resnet50_up_to_res4_with_two_frozen_stages(backend):
    net = backend.get("modeling").build_backbone(backend.get("config").get_cfg())
    assert {name: (spec.channels, spec.stride) for name, spec in net.output_shape().items()} == {"res4": (1024, 16)}
    assert [name for name, _ in net.named_children()] == ["stem", "res2", "res3", "res4"] and net.size_divisibility == 0
    assert {name.split(".")[0] for name, parameter in net.named_parameters() if parameter.requires_grad} == {"res3", "res4"}


def test_features_are_those_of_torchvision(backend):
    torch.manual_seed(0)
    reference, features = resnet50().eval(), ["stem", "res2", "res3", "res4", "res5"]
    net = build(backend, NORM="BN", STRIDE_IN_1X1=False, OUT_FEATURES=features).eval()
    # Both have the same parameters; torchvision registers the shortcut after the branch.
    ours = [name for name in net.state_dict() if ".shortcut." not in name] + [name for name in net.state_dict() if ".shortcut." in name]
    weights = {name: value for name, value in reference.state_dict().items() if not name.startswith("fc.")}
    theirs = [name for name in weights if ".downsample." not in name] + [name for name in weights if ".downsample." in name]
    net.load_state_dict({name: weights[other] for name, other in zip(ours, theirs, strict=True)})
    x = torch.randn(1, 3, 64, 96)
    outputs, expected = net(x), reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
    assert list(outputs) == features
    for name, stage in zip(features, (nn.Identity(), reference.layer1, reference.layer2, reference.layer3, reference.layer4)):
        expected, shape = stage(expected), net.output_shape()[name]
        assert torch.allclose(outputs[name], expected, atol=1e-4, rtol=1e-4), name
        assert expected.shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_make_stage_gives_each_block_its_own_arguments(backend):
    resnet = blocks(backend)
    options = {"in_channels": 16, "out_channels": 64, "bottleneck_channels": 16}
    stage = resnet.ResNet.make_stage(resnet.BottleneckBlock, 3, stride_per_block=[2, 1, 1], dilation_per_block=[1, 1, 2], **options)
    found = [(block.in_channels, block.out_channels, block.stride, block.conv2.dilation[0]) for block in stage]
    assert found == [(16, 64, 2, 1), (64, 64, 1, 1), (64, 64, 1, 2)]
    assert stage[0].shortcut.stride == (2, 2) and stage[1].shortcut is None, "a projection is there only if the channels change"
    for wrong in ({"stride_per_block": [2, 1]}, {"stride_per_block": [2, 1, 1], "stride": 1}):
        with pytest.raises(AssertionError):
            resnet.ResNet.make_stage(resnet.BottleneckBlock, 3, **wrong, **options)


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


def test_unknown_names_and_inputs_are_refused_and_models_are_built_on_the_device(backend):
    cfg, modeling = backend.get("config").get_cfg(), backend.get("modeling")
    with pytest.raises(AssertionError):
        build(backend, **SMALL)(torch.randn(3, 32, 32))
    cfg.MODEL.BACKBONE.NAME = cfg.MODEL.META_ARCHITECTURE = "NoSuchModel"
    for function in (modeling.build_backbone, modeling.build_model):
        with pytest.raises(KeyError, match="NoSuchModel"):
            function(cfg)
    name = f"DetConTestModel_{backend.name}"
    if name not in modeling.META_ARCH_REGISTRY:
        modeling.META_ARCH_REGISTRY._do_register(name, lambda cfg: nn.Linear(1, 1))
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = name, "meta"
    assert modeling.build_model(cfg).weight.device.type == "meta"


@pytest.mark.parametrize("depth", DEPTHS)
def test_both_backends_name_and_shape_all_parameters_alike(subset, real, depth):
    for norm in ("FrozenBN", "BN", ""):
        options = {"DEPTH": depth, "NORM": norm, "OUT_FEATURES": ["res2", "res5"], **DEPTHS[depth]}
        with torch.device("meta"):
            ours, theirs = (build(one, **options) for one in (subset, real))
        shapes = [[(key, value.shape) for key, value in net.state_dict().items()] for net in (ours, theirs)]
        assert shapes[0] == shapes[1]
        assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
        assert {k: vars(v) for k, v in ours.output_shape().items()} == {k: vars(v) for k, v in theirs.output_shape().items()}


def assert_same_outputs_and_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    """With the weights of ``theirs``: outputs to 1e-5, gradients to 1e-5 of their largest entry, statistics to 1e-5."""
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    outputs = []
    for net in (ours, theirs):
        outputs.append(net(x))
        loss = sum(value.square().mean() for value in outputs[-1].values())
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_backends_compute_alike_in_every_variant(subset, real, variant):
    torch.manual_seed(0)
    options = {**SMALL, "OUT_FEATURES": ["res3", "res5"], **VARIANTS[variant]}
    assert_same_outputs_and_gradients(build(subset, **options), build(real, **options))
