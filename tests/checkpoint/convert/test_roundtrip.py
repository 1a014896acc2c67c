"""From a file to every format that is written, and back: the same tensors, bit by bit."""

import pytest
import torch
import torchvision

from detcon_d2.checkpoint.convert.converter import convert, write_weights
from detcon_d2.checkpoint.convert.key_maps import target_keys
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from tests.checkpoint.published import publish


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
@pytest.mark.parametrize("target", ["detectron2", "torchvision", "timm"])
def test_every_format_keeps_tensors_and_metadata(tmp_path, target, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    source = read_checkpoint(publish(tmp_path, "byol-convert")[0])
    keys, path = target_keys(target, source.spec), tmp_path / f"w{suffix}"
    write_weights(path, {keys[name]: tensor for name, tensor in source.tensors.items()}, source.metadata, target)
    back = read_checkpoint(path)
    assert back.style == ("detectron2" if target == "detectron2" else "torchvision")
    torch.testing.assert_close(back.tensors, source.tensors, rtol=0, atol=0)
    # A bare state dict, as load_state_dict takes it, has no place for metadata.
    if target == "detectron2" or suffix != ".pth":
        assert back.metadata == source.metadata | {"style": back.style} and back.spec.padding == "same"


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
