"""A feature pyramid that was pretrained with its ResNet becomes the FPN of the detector, or an error names what is wrong."""

import pytest
import torch

from detcon_d2 import add_detcon_config, d2
from detcon_d2.checkpoint import DetConCheckpointer, check_weights, load_checkpoint_file, read_metadata
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from tests.checkpoint.pretrained import FULL_18, pretraining_config, rewrite, write_pretrained

PYRAMID = {
    "MODEL__BACKBONE__NAME": "build_detcon_resnet_fpn_backbone",
    "MODEL__RESNETS__OUT_FEATURES": '["res2", "res3", "res4"]',
    "MODEL__FPN__IN_FEATURES": '["res2", "res3", "res4"]',
    "MODEL__FPN__OUT_CHANNELS": 16,
    "DETCON__IN_FEATURE": "p4",
    "MODEL__META_ARCHITECTURE": "MaskPrediction",
    "DETCON__VIEWS__SIZE": 64,
}


@pytest.fixture(scope="module", params=["", "BN", "GN"])
def pretrained(request, tmp_path_factory):
    """Mask prediction with a ResNet-18 up to res4 under a pyramid, whose FPN.NORM is the parameter; with a copy as if it were averaged."""
    path = tmp_path_factory.mktemp("pyramid") / "model_final.pth"
    norm = {"MODEL__FPN__NORM": f'"{request.param}"'} | ({"MODEL__FPN__OUT_CHANNELS": 32} if request.param == "GN" else {})

    def average(data):
        model = data["model"]
        model |= {
            f"target.{key}": torch.clone(value) if key.endswith("tracked") else value / 2
            for key, value in model.items()
            if key.startswith("encoder.")
        }

    return rewrite(write_pretrained(path, **FULL_18 | PYRAMID | norm), path, average)


@pytest.mark.parametrize(("branch", "prefix"), [("online", "encoder."), ("ema", "target.encoder.")])
def test_the_detector_has_backbone_and_pyramid_bit_by_bit(pretrained, tmp_path, branch, prefix):
    lines = convert(pretrained, tmp_path / "w.pth", branch=branch, check=True)
    assert any("p2 0.0e+00" in line for line in lines) and any("kept, as the FPN of the detector" in line for line in lines)
    for source, copy in (("w.pth", "again.pkl"), ("again.pkl", "third.pth")):  # other formats keep it
        assert any("p2 0.0e+00" in line for line in convert(tmp_path / source, tmp_path / copy, check=True))
    state = load_checkpoint_file(pretrained)["model"]
    expected = {f"backbone.{key.removeprefix(prefix)}": value for key, value in state.items() if key.startswith(prefix)}
    for name in ("w", "again", "third"):
        cfg = d2.get_cfg()
        add_detcon_config(cfg)
        cfg.merge_from_file(str(tmp_path / f"{name}.yaml"))
        assert len(check_weights(cfg, cfg.MODEL.WEIGHTS)) == 1
        cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM = "BN", cfg.MODEL.FPN.NORM.replace("SyncBN", "BN")
        model = torch.nn.ModuleDict({"backbone": d2.build_backbone(cfg)})
        checkpointer = DetConCheckpointer(model)
        checkpointer.load(cfg.MODEL.WEIGHTS)
        torch.testing.assert_close(dict(model.state_dict()), expected, rtol=0, atol=0)


def test_a_detector_with_another_pyramid_is_refused(pretrained, tmp_path):
    convert(pretrained, tmp_path / "w.pth")
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.merge_from_file(str(tmp_path / "w.yaml"))
    found, norm = cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM = 256, "GN" if norm == "" else ""
    with pytest.raises(
        ValueError, match=rf"OUT_CHANNELS is 256; expected {found}[^$]*FPN.NORM is '{cfg.MODEL.FPN.NORM}'; expected '{norm}'"
    ):
        check_weights(cfg, str(tmp_path / "w.pth"))
    cfg.MODEL.BACKBONE.NAME = "build_detcon_resnet_backbone"  # without a pyramid there is nothing to compare
    assert "agrees" in check_weights(cfg, str(tmp_path / "w.pth"))[0]


def test_of_a_trained_detector_the_pyramid_is_left_out(pretrained, tmp_path):
    def forget(data):
        del data["metadata"]["pyramid_channels"], data["metadata"]["pyramid_norm"]

    convert(pretrained, tmp_path / "w.pth")
    detector = rewrite(tmp_path / "w.pth", tmp_path / "detector.pth", forget)
    assert not read_checkpoint(detector).pyramid and set(read_checkpoint(detector).dropped.values()) == {"feature pyramid"}
    assert all(key.startswith("backbone.fpn_") for key in read_checkpoint(detector).dropped)
    convert(detector, tmp_path / "backbone.pth")
    assert "pyramid_channels" not in read_metadata(tmp_path / "backbone.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.pop("encoder.fpn_output3.weight"), r"missing: fpn_output3.weight"),
        (lambda model: model.pop("encoder.fpn_output4.weight"), r"lacks fpn_output4.weight; expected a level for each of res2, res3, res4"),
        (lambda model: model.update({"encoder.fpn_output5.weight": torch.zeros(1)}), r"unexpected: fpn_output5.weight"),
        (lambda model: model["encoder.fpn_lateral2.weight"].fill_(float("nan")), r"not finite: fpn_lateral2.weight"),
        (
            lambda model: model.update({"encoder.fpn_lateral2.weight": torch.zeros(8, 64, 1, 1)}),
            r"wrong shape: fpn_lateral2.weight is \(8,",
        ),
    ],
    ids=["missing", "coarsest missing", "unexpected", "not finite", "wrong shape"],
)
def test_what_does_not_fit_is_named(pretrained, tmp_path, change, message):
    broken = rewrite(pretrained, tmp_path / "broken.pth", lambda data: change(data["model"]))
    with pytest.raises(ValueError, match=message):
        convert(broken, tmp_path / "w.pth")
    assert not (tmp_path / "w.pth").exists()


def test_method_and_views_must_fit_the_pyramid():
    with pytest.raises(ValueError, match=r"of which DetConB trains DETCON.IN_FEATURE alone.* Expected 'build_detcon_resnet_backbone'"):
        d2.build_model(pretraining_config(**FULL_18 | PYRAMID | {"MODEL__META_ARCHITECTURE": "DetConB"}))
    with pytest.raises(ValueError, match=r"DETCON.VIEWS.SIZE is 65; expected a multiple of 16 pixels.* Set it to 80"):
        d2.build_model(pretraining_config(**FULL_18 | PYRAMID | {"DETCON__VIEWS__SIZE": 65}))
