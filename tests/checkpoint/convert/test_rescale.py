"""Rescaled weights: the norms of a fresh initialisation, the features of the old weights."""

import pytest
import torch

from detcon_d2.checkpoint import load_checkpoint_file, read_metadata
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.convert.rescale import rescale
from detcon_d2.checkpoint.convert.spec import BackboneSpec, convolutions
from detcon_d2.checkpoint.convert.verify import build_encoder

SPEC = BackboneSpec(50, stem_out_channels=8, res2_out_channels=16, width_per_group=4)


def stretched(encoder, factors):
    """The tensors of the encoder with every convolution longer by one of ``factors``, and statistics of BatchNorm as after training."""
    tensors = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    for index, conv in enumerate(convolutions(SPEC)):
        tensors[f"{conv.name}.weight"] *= factors[index % len(factors)]
        tensors[f"{conv.name}.norm.weight"].uniform_(0.5, 1.5)
        tensors[f"{conv.name}.norm.running_mean"].normal_()
        # Small ones, too: there eps of BatchNorm counts.
        tensors[f"{conv.name}.norm.running_var"].uniform_(0, 1).pow_(8)
    return tensors


@pytest.mark.parametrize("factors", [(6.0, 0.2, 1.0), (1000.0,), (0.001,)])
def test_norms_are_fresh_and_features_are_kept(factors):
    encoder = build_encoder(SPEC).eval()
    tensors = stretched(encoder, factors)
    rescaled, line = rescale(tensors, SPEC)
    images = torch.randn(2, 3, 75, 106)
    features = []
    for state in (tensors, rescaled):
        encoder.load_state_dict(state)
        with torch.no_grad():
            features.append(encoder.double()(images.double()))
        encoder.float()
    for stage, expected in features[0].items():
        difference = (features[1][stage] - expected).abs().max() / expected.abs().max()
        assert difference < 1e-5, (stage, difference)
    fresh = build_encoder(SPEC).state_dict()
    for conv in convolutions(SPEC):
        key = f"{conv.name}.weight"
        assert rescaled[key].norm() / fresh[key].norm() == pytest.approx(1, abs=0.3)  # 24 numbers in the smallest
        assert torch.allclose(rescaled[key] / rescaled[key].norm(), tensors[key] / tensors[key].norm(), atol=1e-6)
    total = [sum(state[f"{conv.name}.weight"].norm().item() for conv in convolutions(SPEC)) for state in (rescaled, fresh)]
    assert total[0] / total[1] == pytest.approx(1, abs=0.03)
    assert list(rescaled) == list(tensors)
    assert "rescaled 53 convolutions" in line


def test_a_convolution_of_zeros_stays():
    tensors = {name: tensor.clone() for name, tensor in build_encoder(SPEC).state_dict().items()}
    tensors["res3.0.conv1.weight"].zero_()
    assert not rescale(tensors, SPEC)[0]["res3.0.conv1.weight"].any()


def test_a_rescaled_conversion_is_checked_against_the_old_weights_and_says_so(pretrained_s, tmp_path):
    lines = convert(pretrained_s, tmp_path / "w.pth", rescaled=True, check=True)
    assert any(line.startswith("features before and after conversion agree") for line in lines)
    assert any(line.startswith("rescaled 53 convolutions to the norms of a fresh initialisation") for line in lines)
    assert read_metadata(tmp_path / "w.pth")["rescaled"] is True
    found = load_checkpoint_file(tmp_path / "w.pth")["model"]["backbone.bottom_up.stem.conv1.weight"]
    assert found.norm().item() == pytest.approx(6**0.5, rel=1e-5)
