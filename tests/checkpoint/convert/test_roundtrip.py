"""From every style to every format that is written, and back: the same tensors, bit by bit."""

import importlib.util

import pytest
import torch
import torchvision

from detcon_d2.checkpoint.convert.converter import convert, write_weights
from detcon_d2.checkpoint.convert.key_maps import target_keys
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.checkpoint.convert.spec import BackboneSpec
from tests.checkpoint.published import PUBLISHED, publish
from tests.checkpoint.released import backbone_tensors, haiku_trees, write_npy

TARGETS = [
    (target, suffix)
    for target in ("detectron2", "torchvision", "timm")
    for suffix in (".pkl", ".pth", ".safetensors")
    if target == "detectron2" or suffix != ".pkl"
]


def source_file(folder, style):
    if style == "haiku":
        spec = BackboneSpec(50, stem_out_channels=8, res2_out_channels=16, width_per_group=4)
        return write_npy(folder / "in.npy", haiku_trees(backbone_tensors(spec)))
    if style == "detcon_d2":
        bare = read_checkpoint(publish(folder, "torchvision")[0])
        torch.save({"model": {f"encoder.{name}": value for name, value in bare.tensors.items()}}, folder / "in.pth")
        return folder / "in.pth"
    return publish(folder, style)[0]


@pytest.mark.parametrize("style", ["detcon_d2", "haiku", *PUBLISHED])
def test_every_style_survives_every_format(tmp_path, style):
    source = read_checkpoint(source_file(tmp_path, style))
    for target, suffix in TARGETS:
        if suffix == ".safetensors" and not importlib.util.find_spec("safetensors"):
            continue
        keys = target_keys(target, source.spec)
        path = tmp_path / f"{target}{suffix}"
        write_weights(path, {keys[name]: tensor for name, tensor in source.tensors.items()}, source.metadata, target)
        back = read_checkpoint(path)
        assert back.style == ("detectron2" if target == "detectron2" else "torchvision")
        torch.testing.assert_close(back.tensors, source.tensors, rtol=0, atol=0)
        if (target, suffix) not in (("torchvision", ".pth"), ("timm", ".pth")):
            assert back.metadata == source.metadata | {"style": back.style} and back.spec.padding == source.spec.padding


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("target", ["torchvision", "timm"])
def test_the_converter_goes_there_and_back(tmp_path, target, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "d2.pkl")
    convert(tmp_path / "d2.pkl", tmp_path / f"back{suffix}", target=target)
    convert(tmp_path / f"back{suffix}", tmp_path / "again.pkl")
    first, last = (read_checkpoint(tmp_path / name).tensors for name in ("d2.pkl", "again.pkl"))
    torch.testing.assert_close(last, first, rtol=0, atol=0)
    kept = read_checkpoint(tmp_path / f"back{suffix}").tensors
    assert torch.equal(kept["res4.0.shortcut.weight"], state["layer3.0.downsample.0.weight"])
