"""The numerical check sees what goes wrong in a conversion, and nothing where nothing does."""

import pytest
import torch

from detcon_d2.checkpoint.convert.converter import convert, write_weights
from detcon_d2.checkpoint.convert.key_maps import target_keys
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.checkpoint.convert.verify import compare_features, detectron2_features, encoder_features, verify_conversion


@pytest.fixture
def written(pretrained_b, tmp_path):
    """A backbone, and the target and the two files of its conversion."""
    convert(pretrained_b, tmp_path / "w.pth")
    return read_checkpoint(pretrained_b), "detectron2", tmp_path / "w.pth", tmp_path / "w.yaml"


def write_changed(path, backbone, target, name, change):
    """Write the weights again with one tensor changed."""
    keys, tensors = target_keys(target, backbone.spec), backbone.tensors | {name: change(backbone.tensors[name])}
    write_weights(path, {keys[key]: tensor for key, tensor in tensors.items()}, backbone.metadata, target)


def test_features_of_a_good_conversion_agree_to_1e_6(written):
    (line,) = verify_conversion(*written)
    assert "agree" in line and all(stage in line for stage in ("res2", "res3", "res4", "res5"))
    images = torch.rand(1, 3, 64, 64) * 255
    before, after = encoder_features(written[0], images), detectron2_features(*written[2:], images)
    for stage, expected in before.items():
        assert (after[stage] - expected).abs().max() <= 1e-6 * expected.abs().max()
        assert expected.std() > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FORMAT: RGB", "FORMAT: BGR"),
        ("STRIDE_IN_1X1: false", "STRIDE_IN_1X1: true"),
        ("PIXEL_STD: [58.395, 57.12, 57.375]", "PIXEL_STD: [1.0, 1.0, 1.0]"),
        ("PIXEL_MEAN: [123.675, 116.28, 103.53]", "PIXEL_MEAN: [123.675, 116.28, 103.5]"),
    ],
)
def test_a_yaml_with_one_wrong_value_is_found(written, old, new):
    text = written[-1].read_text()
    assert old in text
    written[-1].write_text(text.replace(old, new))
    with pytest.raises(ValueError, match="give other features: largest relative differences res2 "):
        verify_conversion(*written)


@pytest.mark.parametrize(
    "key", ["stem.conv1.weight", "res3.0.shortcut.norm.running_mean", "res5.2.conv3.norm.running_var", "res4.5.conv2.weight"]
)
def test_one_wrong_tensor_is_found(written, key):
    backbone, target, weights, _ = written
    write_changed(weights, backbone, target, key, lambda tensor: tensor * 1.01)
    with pytest.raises(ValueError, match="give other features"):
        verify_conversion(*written)


def test_the_branches_are_not_mistaken_for_each_other(pretrained_b, tmp_path):
    convert(pretrained_b, tmp_path / "w.pth", branch="ema")
    with pytest.raises(ValueError, match="give other features"):
        verify_conversion(read_checkpoint(pretrained_b), "detectron2", tmp_path / "w.pth", tmp_path / "w.yaml")


def test_an_encoder_that_diverged_is_reported_as_such(written):
    written[0].tensors["res3.0.conv1.weight"] *= float("nan")
    with pytest.raises(ValueError, match=r"features of res3 are not finite: the pretraining diverged"):
        verify_conversion(*written)


def test_not_a_number_after_conversion_fails():
    good = {"res2": torch.ones(1, 2, 3, 3)}
    assert compare_features(good, {"res2": good["res2"] + 1e-7}, 1e-6)
    for bad in (good["res2"] * float("nan"), good["res2"] + 1e-5):
        with pytest.raises(ValueError, match="res2"):
            compare_features(good, {"res2": bad}, 1e-6)


@pytest.mark.parametrize("target", ["torchvision", "timm"])
def test_a_wrong_tensor_is_found_in_the_libraries_networks_too(pretrained_18, tmp_path, target):
    pytest.importorskip(target)
    convert(pretrained_18, tmp_path / "w.pth", target=target)
    backbone = read_checkpoint(pretrained_18)
    assert "agree" in verify_conversion(backbone, target, tmp_path / "w.pth", tmp_path / "w.json")[0]
    write_changed(tmp_path / "w.pth", backbone, target, "res4.1.conv2.norm.bias", lambda tensor: tensor + 0.1)
    with pytest.raises(ValueError, match="give other features"):
        verify_conversion(backbone, target, tmp_path / "w.pth", tmp_path / "w.json")


def test_without_timm_the_check_reports_that_it_was_not_made(written, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lines = verify_conversion(written[0], "timm", *written[2:])
    assert lines == ["features: not compared, since timm is not installed (pip install timm)"]
