"""MODEL.WEIGHTS of pretraining: any checkpoint that the converter knows fills the encoder, and its copy; what cannot is refused."""

import pickle
import re

import pytest
import torch
import torchvision

from detcon_d2.checkpoint.convert.converter import convert
from tests.checkpoint.pretrained import FULL_18, write_pretrained
from tests.checkpoint.published import under
from tests.conftest import tiny_opts
from tests.engine.runs import assert_same_state, final_state, output_of, pretrainer, start, train

RESNET18 = {**FULL_18, "DETCON__PROJECTOR__HIDDEN_DIM": 16, "DETCON__PREDICTOR__HIDDEN_DIM": 16}


@pytest.fixture(scope="module")
def supervised() -> dict[str, torch.Tensor]:
    """torchvision's ResNet-18, and what its tensors are called here."""
    torch.manual_seed(0)
    return {key: value + 0.01 if value.is_floating_point() else value for key, value in torchvision.models.resnet18().state_dict().items()}


def as_torchvision(path, state):
    torch.save(state, path)


def as_moco(path, state):
    torch.save({"state_dict": under("module.encoder_q.", state) | under("module.encoder_k.", state), "epoch": 1}, path)


def as_arrays(path, state):
    path.write_bytes(pickle.dumps({key: value.numpy() for key, value in state.items() if not key.startswith("fc.")}))


def as_converted(path, state):
    torch.save(state, path.with_name("source.pth"))
    convert(path.with_name("source.pth"), path)


KINDS = {"w.pth": as_torchvision, "moco.pth": as_moco, "arrays.pkl": as_arrays, "converted.pkl": as_converted}


def started(photos, folder, weights, **more):
    trainer = pretrainer(tiny_opts(photos, folder, MODEL__WEIGHTS=weights, **{**RESNET18, **more}))
    trainer.resume_or_load(resume=False)
    return trainer


def check_encoders(network, state):
    for encoder in network._encoders():
        own = encoder.state_dict()
        for name, key in (("stem.conv1.weight", "conv1.weight"), ("res5.1.conv2.norm.bias", "layer4.1.bn2.bias")):
            torch.testing.assert_close(own[name], state[key], rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_of_any_style_fills_the_encoder_and_its_copy(photos, tmp_path, supervised, name, architecture):
    KINDS[name](tmp_path / name, supervised)
    network = started(photos, tmp_path / "out", tmp_path / name, MODEL__META_ARCHITECTURE=architecture).network
    assert len(network._encoders()) == (2 if architecture == "DetConB" else 1)
    check_encoders(network, supervised)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert re.search(rf"MODEL.WEIGHTS .*{name}: style \S+, 120 of 120 tensors of the encoder loaded \(ResNet-18\); left out: \w+", log)


def test_stages_that_the_encoder_does_not_have_are_left_out(photos, tmp_path, supervised):
    torch.save(supervised, tmp_path / "w.pth")
    options = {"MODEL__RESNETS__OUT_FEATURES": "('res4',)", "DETCON__IN_FEATURE": "res4"}
    own = started(photos, tmp_path / "out", tmp_path / "w.pth", **options).network.encoder.state_dict()
    torch.testing.assert_close(own["res4.1.conv2.norm.bias"], supervised["layer3.1.bn2.bias"], rtol=0, atol=0)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert re.search(r"MODEL.WEIGHTS .*w.pth: .* 90 of 90 tensors of the encoder loaded .*; left out: .*, res5\.", log)


def test_a_random_target_stays_its_own(photos, tmp_path, supervised):
    torch.save(supervised, tmp_path / "w.pth")
    network = started(photos, tmp_path / "out", tmp_path / "w.pth", DETCON__EMA__INIT="random").network
    assert not torch.equal(network.target["encoder"].stem.conv1.weight, network.encoder.stem.conv1.weight)


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), {}, "missing: layer1.0.conv1.weight"),
        (lambda state: state["bn1.bias"].fill_(float("nan")), {}, "not finite: bn1.bias"),
        (lambda state: state.clear(), {}, "is of no known style|holds no state dict"),
        (lambda state: None, {"MODEL__RESNETS__DEPTH": 34}, r"\(ResNet-18\): MODEL.RESNETS.DEPTH is 34; expected 18"),
        (lambda state: None, {"MODEL__PIXEL_STD": "[1.0, 1.0, 1.0]"}, "MODEL.PIXEL_STD is .*; expected"),
    ],
)
def test_what_does_not_fill_the_encoder_is_refused(photos, tmp_path, supervised, change, options, reason):
    state = {key: value.clone() for key, value in supervised.items()}
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=reason):
        started(photos, tmp_path / "out", tmp_path / "w.pth", **options)


def test_another_depth_is_refused_without_the_check_of_settings_too(photos, tmp_path, supervised):
    torch.save(supervised, tmp_path / "w.pth")
    options = {"MODEL__RESNETS__DEPTH": 34, "DETCON__CHECK_WEIGHTS": False}
    with pytest.raises(ValueError, match=r"MODEL.RESNETS.DEPTH is 34; expected 18"):
        started(photos, tmp_path / "out", tmp_path / "w.pth", **options)
    options = {"MODEL__PIXEL_STD": "[1.0, 1.0, 1.0]", "DETCON__CHECK_WEIGHTS": False}
    check_encoders(started(photos, tmp_path / "pixels", tmp_path / "w.pth", **options).network, supervised)


def test_own_checkpoints_are_loaded_whole_and_must_fit_the_encoder(photos, tmp_path):
    path = write_pretrained(tmp_path / "own.pth")
    trainer = pretrainer(tiny_opts(photos, tmp_path / "out", MODEL__WEIGHTS=path, DETCON__PROBE__ENABLED=False))
    trainer.resume_or_load(resume=False)
    saved = torch.load(path, weights_only=True)["model"]
    torch.testing.assert_close(dict(trainer.network.state_dict()), dict(saved), rtol=0, atol=0)
    assert "all tensors of the encoder loaded; not in the file: nothing" in (tmp_path / "out" / "log.txt").read_text()
    with pytest.raises(ValueError, match=r"lacks .* tensors of the encoder that this config builds, such as encoder"):
        started(photos, tmp_path / "other", path)


def test_a_resumed_run_does_not_ask_for_the_weights_that_it_started_from(photos, tmp_path, supervised):
    torch.save(supervised, tmp_path / "w.pth")
    opts = tiny_opts(photos, tmp_path / "out", MODEL__WEIGHTS=tmp_path / "w.pth", **RESNET18)
    train(pretrainer(opts))
    before = final_state(tmp_path / "out")
    (tmp_path / "w.pth").unlink()
    trainer = pretrainer(opts)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 4
    assert_same_state(before, {"model": trainer.network.state_dict(), "trainer": trainer.state_dict()})


def test_a_missing_file_is_one_line(photos, tmp_path):
    output = output_of(start(tiny_opts(photos, tmp_path / "out", MODEL__WEIGHTS=tmp_path / "none.pth")), code=2)
    assert "none.pth, which does not exist" in output and "Traceback" not in output
