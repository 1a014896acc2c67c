"""ImageNet-supervised backbones, with the names of Detectron2 or of Caffe2, load into the backbone of a detector on both backends."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

PREFIX = "backbone.bottom_up."
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def detector(backend, norm="FrozenBN", depth=50):
    """A narrow ResNet with the names that it has in Mask R-CNN with FPN, and a head; every number is 7."""
    cfg = backend.get("config").get_cfg()
    bottleneck = depth >= 50
    options = {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16 if bottleneck else 64, "WIDTH_PER_GROUP": 4, "DEPTH": depth, "NORM": norm}
    options |= {"OUT_FEATURES": ["res2", "res3", "res4", "res5"]}
    cfg.MODEL.RESNETS.merge_from_list([item for pair in options.items() for item in pair])
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.bottom_up = backend.get("modeling").build_backbone(cfg)
    model.head = nn.Linear(2, 2)
    for value in model.state_dict().values():
        value.fill_(7)
    return model


def random_weights(model, statistics=True):
    """A random array for each tensor of the backbone, by its name in the backbone; ``statistics``: also those of BatchNorm."""
    rng = np.random.default_rng(0)
    names = [name.removeprefix(PREFIX) for name in model.state_dict() if name.startswith(PREFIX)]
    kept = [name for name in names if statistics or not name.endswith(STATISTICS)]
    tensors = model.state_dict()
    return {name: rng.random(tensors[PREFIX + name].shape, dtype=np.float32) for name in kept if not name.endswith("num_batches_tracked")}


def caffe2_name(name):
    """Written from the published names: conv1_w, res_conv1_bn_s, res2_0_branch2a_w, res2_0_branch1_bn_b ..."""
    layer, kind = name.replace(".norm.", " bn.").rsplit(".", 1) if ".norm." in name else (name.removesuffix(".weight"), "w")
    if layer.endswith(" bn"):
        layer, kind = layer.removesuffix(" bn"), {"weight": "bn_s", "bias": "bn_b", "running_mean": "bn_rm", "running_var": "bn_riv"}[kind]
    if layer == "stem.conv1":
        return "conv1_w" if kind == "w" else f"res_conv1_{kind}"
    stage, block, conv = layer.split(".")
    return f"{stage}_{block}_branch{ {'conv1': '2a', 'conv2': '2b', 'conv3': '2c', 'shortcut': '1'}[conv] }_{kind}"


def save(path, content):
    path.write_bytes(pickle.dumps(content))
    return str(path)


def load(backend, path, **kwargs):
    model = detector(backend, **kwargs)
    backend.get("checkpoint").DetectionCheckpointer(model).load(path)
    return model.state_dict()


def assert_loaded(state, weights):
    for name, array in weights.items():
        assert np.array_equal(state[PREFIX + name].numpy(), array), name
    assert state["head.weight"].unique().tolist() == [7]


def caffe2_file(path, weights):
    blobs = {caffe2_name(name): array for name, array in weights.items()}
    blobs |= {"fc1000_w": np.ones((5, 64), np.float32), "fc1000_b": np.ones(5, np.float32), "conv1_w_momentum": blobs["conv1_w"] + 1}
    return save(path, {"blobs": blobs})


def test_the_published_names_of_caffe2_are_what_these_tests_write():
    names = {
        "stem.conv1.weight": "conv1_w",
        "stem.conv1.norm.weight": "res_conv1_bn_s",
        "res2.0.conv1.weight": "res2_0_branch2a_w",
        "res2.0.conv1.norm.bias": "res2_0_branch2a_bn_b",
        "res4.22.conv3.norm.running_var": "res4_22_branch2c_bn_riv",
        "res5.0.shortcut.weight": "res5_0_branch1_w",
    }
    assert {name: caffe2_name(name) for name in names} == names


@pytest.mark.parametrize(("norm", "depth"), [("FrozenBN", 50), ("BN", 18)])
def test_blobs_of_caffe2_load_into_the_backbone(backend, tmp_path, norm, depth, log_lines):
    lines = log_lines("fvcore.common.checkpoint")
    weights = random_weights(detector(backend, norm, depth))
    assert_loaded(load(backend, caffe2_file(tmp_path / "R.pkl", weights), norm=norm, depth=depth), weights)
    text = "\n".join(lines)
    assert "fc1000" in text and "head" in text and "momentum" not in text


def test_bare_blobs_without_statistics_load_as_mean_0_and_variance_1(backend, tmp_path):
    weights = random_weights(detector(backend), statistics=False)
    state = load(backend, save(tmp_path / "R-50.pkl", {caffe2_name(name): array for name, array in weights.items()}))
    assert_loaded(state, weights)
    for name, expected in (("running_mean", 0), ("running_var", 1)):
        assert {value.item() for key, tensor in state.items() if key.endswith(name) for value in tensor} == {expected}


def test_both_backends_load_the_same_tensors(subset, real, tmp_path):
    weights = random_weights(detector(subset), statistics=False)
    path = caffe2_file(tmp_path / "R-50.pkl", weights)
    states = [load(backend, path) for backend in (subset, real)]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*(state.values() for state in states), strict=True))
