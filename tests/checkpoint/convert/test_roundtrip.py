"""From a file to every format that is written, and back: the same tensors, bit by bit."""

import pytest
import torch
import torchvision

from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.convert.readers import read_checkpoint


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("target", ["torchvision", "timm"])
def test_the_converter_goes_there_and_back(tmp_path, target, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "d2.pkl", facts={"licence": "MIT"})
    convert(tmp_path / "d2.pkl", tmp_path / f"back{suffix}", target=target)
    convert(tmp_path / f"back{suffix}", tmp_path / "again.pkl")
    first, last = (read_checkpoint(tmp_path / name).tensors for name in ("d2.pkl", "again.pkl"))
    torch.testing.assert_close(last, first, rtol=0, atol=0)
    back = read_checkpoint(tmp_path / f"back{suffix}")
    assert torch.equal(back.tensors["res4.0.shortcut.weight"], state["layer3.0.downsample.0.weight"])
    # A bare state dict, as load_state_dict takes it, has no place for metadata.
    assert back.metadata.get("licence") == ("MIT" if suffix == ".safetensors" else None)
