"""Conversion: complete and exact in every format, or an error that names what is wrong; INPUT stays, OUTPUT is whole."""

import hashlib
import importlib.util
import json
import os
import pickle
import sys

import numpy as np
import pytest
import torch
import torchvision
import yaml

from detcon_d2 import d2
from detcon_d2.checkpoint import DetConCheckpointer, load_checkpoint_file, read_metadata
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.engine import load_config
from tests.checkpoint.pretrained import rewrite, write_pretrained

OPTIONAL = pytest.mark.skipif(not importlib.util.find_spec("safetensors"), reason="safetensors is not installed")
FORMATS = ["pkl", "pth", pytest.param("safetensors", marks=OPTIONAL)]
AGREE = "features before and after conversion agree"


def encoder_of(path, prefix="encoder."):
    state = load_checkpoint_file(path)["model"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def backbone_of(path):
    state = load_checkpoint_file(path)["model"]
    assert all(key.startswith("backbone.bottom_up.") for key in state)
    return {key.removeprefix("backbone.bottom_up."): torch.as_tensor(value) for key, value in state.items()}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("branch", "prefix"), [("online", "encoder."), ("ema", "target.encoder.")])
def test_every_format_holds_the_chosen_encoder_bit_by_bit_and_its_metadata(pretrained_b, tmp_path, suffix, branch, prefix):
    lines = convert(pretrained_b, tmp_path / f"w.{suffix}", branch=branch, check=True)
    found, expected = backbone_of(tmp_path / f"w.{suffix}"), encoder_of(pretrained_b, prefix)
    assert list(found) == list(expected) or suffix == "safetensors"
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    key = "res5.2.conv3.norm.weight"
    assert not torch.equal(encoder_of(pretrained_b)[key], encoder_of(pretrained_b, "target.encoder.")[key])
    added = {"encoder": branch, "converted_to": "detectron2", "style": "detcon_d2", "source_file": "model_final.pth"}
    added |= {"source_sha256": hashlib.sha256(pretrained_b.read_bytes()).hexdigest()}
    assert read_metadata(tmp_path / f"w.{suffix}") == read_metadata(pretrained_b) | added
    for text in ("epochs: 2.0", f"encoder: {branch}", "mask_parameters: grid 2", "pixel_mean: [123.675, 116.28, 103.53]"):
        assert f"  {text}" in lines


def test_pickles_have_an_author_and_no_matching_heuristics(pretrained_s, tmp_path):
    convert(pretrained_s, tmp_path / "w.pkl")
    data = pickle.loads((tmp_path / "w.pkl").read_bytes())
    assert data.keys() == {"model", "__author__", "metadata"}
    assert all(isinstance(value, np.ndarray) for value in data["model"].values())


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_stock_detectron2_builds_the_yaml_and_misses_the_pyramid_only(backend, pretrained_b, tmp_path, suffix):
    weights = tmp_path / f"w.{suffix}"
    convert(pretrained_b, weights)
    cfg = backend.get("config").get_cfg()
    cfg.merge_from_file(str(tmp_path / "w.yaml"))
    assert cfg.MODEL.WEIGHTS == str(weights) and cfg.MODEL.MASK_ON
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "BN"
    model = torch.nn.ModuleDict({"backbone": backend.get("modeling").build_backbone(cfg)})
    loaded = backend.get("checkpoint").DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    assert loaded["metadata"]["depth"] == 50
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("backbone.fpn_")}
    expected = {f"backbone.bottom_up.{key}": value for key, value in encoder_of(pretrained_b).items()}
    torch.testing.assert_close(state, expected, rtol=0, atol=0)


@pytest.mark.parametrize("target", ["torchvision", "timm"])
@pytest.mark.parametrize("suffix", FORMATS[1:])
@pytest.mark.parametrize("depth", [18, 50])
def test_libraries_load_their_names_strictly_except_for_fc(request, tmp_path, target, suffix, depth):
    library = pytest.importorskip("timm").create_model if target == "timm" else torchvision.models.get_model
    source = request.getfixturevalue(f"pretrained_{depth}")
    lines = convert(source, tmp_path / f"w.{suffix}", target=target, check=True)
    assert any(AGREE in line for line in lines)
    loaded = load_checkpoint_file(tmp_path / f"w.{suffix}")
    report = library(f"resnet{depth}").load_state_dict(loaded["model"] if suffix == "safetensors" else loaded, strict=False)
    assert set(report.missing_keys) == {"fc.weight", "fc.bias"} and not report.unexpected_keys
    # And back: the same tensors, bit by bit. A bare state dict, as load_state_dict takes it, has no place for metadata.
    back = read_checkpoint(tmp_path / f"w.{suffix}")
    torch.testing.assert_close(back.tensors, encoder_of(source), rtol=0, atol=0)
    assert back.metadata.get("epochs") == (2.0 if suffix == "safetensors" else None)
    companion = json.loads((tmp_path / "w.json").read_text())
    assert companion["mean"] == pytest.approx([0.485, 0.456, 0.406]) and companion["channel_order"] == "RGB" and companion["epochs"] == 2.0


def test_libraries_refuse_what_they_cannot_build(pretrained_s, pretrained_50, tmp_path):
    with pytest.raises(ValueError, match=r"torchvision has no ResNet-50 \(STEM_OUT_CHANNELS 8.*published channels"):
        convert(pretrained_s, tmp_path / "w.pth", target="torchvision")
    inside = rewrite(pretrained_50, tmp_path / "in.pth", lambda data: data["metadata"].update(stride_in_1x1=True))
    with pytest.raises(ValueError, match="STRIDE_IN_1X1 True; torchvision's ResNets have the stride in the 3x3"):
        convert(inside, tmp_path / "w.pth", target="torchvision")
    with pytest.raises(ValueError, match=r"ends in '.pkl'; expected .pth, .safetensors for timm"):
        convert(pretrained_s, tmp_path / "w.pkl", target="timm")


WIDE_18 = {"MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64, "DETCON__WIDTH_MULTIPLIER": 2}


@pytest.mark.parametrize(
    ("overrides", "builder"),
    [
        (WIDE_18, "build_detcon_resnet_fpn_backbone"),
        ({"MODEL__RESNETS__DEPTH": 200}, "build_detcon_resnet_fpn_backbone"),
        ({"DETCON__WIDTH_MULTIPLIER": 2}, "build_resnet_fpn_backbone"),
        ({"MODEL__RESNETS__STRIDE_IN_1X1": True, "MODEL__PIXEL_STD": "[1.0, 2.0, 3.0]"}, "build_resnet_fpn_backbone"),
    ],
    ids=["wide 18", "200", "wide 50", "stride and pixel statistics"],
)
def test_the_yaml_builds_the_pretrained_network(tmp_path, overrides, builder):
    convert(write_pretrained(tmp_path / "in.pth", MODEL__META_ARCHITECTURE="DetConS", **overrides), tmp_path / "w.pth", check=True)
    config = yaml.safe_load((tmp_path / "w.yaml").read_text())
    assert config["MODEL"]["BACKBONE"]["NAME"] == builder and ("DETCON" in config) == ("detcon" in builder)


def test_a_network_that_ends_with_res4_stays_one(tmp_path):
    ends = {"MODEL__RESNETS__OUT_FEATURES": "['res4']", "DETCON__IN_FEATURE": "res4"}
    source = write_pretrained(tmp_path / "in.pth", MODEL__META_ARCHITECTURE="DetConS", **ends)
    lines = convert(source, tmp_path / "w.pth", check=True)
    assert any("agree: largest relative differences res2" in line and "res5" not in line for line in lines)
    assert "up to res4" in lines[0] and read_metadata(tmp_path / "w.pth")["last_stage"] == 4
    cfg = load_config(str(tmp_path / "w.yaml"), ["MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN", "MODEL.DEVICE", "cpu"])
    detector = d2.build_model(cfg)
    assert [anchors.shape[0] for anchors in detector.proposal_generator.anchor_generator.cell_anchors] == [3] * 4
    DetConCheckpointer(detector).load(str(tmp_path / "w.pth"))
    with pytest.raises(ValueError, match=r"torchvision has no ResNet-50 .*up to res4"):
        convert(source, tmp_path / "t.pth", target="torchvision")
    longer = rewrite(source, tmp_path / "longer.pth", lambda d: d["model"].update({"encoder.res5.0.conv1.weight": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"up to res4 (?s:.)*unexpected: res5.0.conv1.weight"):
        convert(longer, tmp_path / "l.pth")
    claimed = rewrite(source, tmp_path / "claimed.pth", lambda d: d["metadata"].pop("last_stage"))
    with pytest.raises(ValueError, match=r"missing: res5.0.conv1.weight"):
        convert(claimed, tmp_path / "c.pth")


def test_a_checkpoint_without_metadata_reports_what_was_inferred_and_assumed(pretrained_18, tmp_path):
    bare = tmp_path / "bare.pth"
    torch.save(load_checkpoint_file(pretrained_18)["model"], bare)
    lines = convert(bare, tmp_path / "w.pth", check=True)
    assert any("no metadata. From its tensors: ResNet-18. Assumed" in line and "pixel_mean" in line for line in lines)
    assert read_metadata(tmp_path / "w.pth")["depth"] == 18 and "channel_order" not in read_metadata(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["model"].pop("encoder.res4.3.conv2.weight"), "missing: res4.3.conv2.weight"),
        (lambda d: d["model"].update({"encoder.res6.weight": torch.zeros(1)}), "unexpected: res6.weight"),
        (lambda d: d["model"].update({"surprise.weight": torch.zeros(1)}), "unexpected outside the encoder: surprise.weight"),
        (lambda d: d["metadata"].update(depth=101), r"the tensors look like a ResNet-50 (?s:.)*missing: res4.6.conv1.weight"),
    ],
    ids=["missing", "unexpected", "outside", "depth"],
)
def test_every_tensor_that_does_not_fit_is_named(pretrained_s, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        convert(rewrite(pretrained_s, tmp_path / "in.pth", change), tmp_path / "w.pth")
    assert sorted(os.listdir(tmp_path)) == ["in.pth"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict: expected a dict of tensors, such as a DetCon pretraining checkpoint. It is a list"),
        (
            {"model": {"blocks.0.attn.qkv.weight": torch.zeros(2)}, "epoch": 1},
            r"is of no known style.*first keys: model: blocks.0.attn.qkv.weight ...; epoch. Known styles: detcon_d2, haiku",
        ),
    ],
    ids=["list", "transformer"],
)
def test_an_unrelated_file_is_refused_clearly_and_nothing_is_written(tmp_path, content, message):
    source = tmp_path / "in.pth"
    torch.save(content, source)
    with pytest.raises(ValueError, match=message) as error:
        convert(source, tmp_path / "w.pth")
    assert str(source) in str(error.value) and os.listdir(tmp_path) == [source.name]


def test_converted_weights_are_read_again_with_their_metadata(pretrained_b, tmp_path):
    convert(pretrained_b, tmp_path / "w.pkl", branch="ema")
    lines = convert(tmp_path / "w.pkl", tmp_path / "again.pth", check=True)
    assert any(line.startswith("style detectron2: ") and "'backbone.bottom_up.'" in line for line in lines)
    torch.testing.assert_close(backbone_of(tmp_path / "again.pth"), encoder_of(pretrained_b, "target.encoder."), rtol=0, atol=0)
    metadata = read_metadata(tmp_path / "again.pth")
    assert (metadata["epochs"], metadata["encoder"]) == (2.0, "ema")


def test_impossible_arguments_are_named(pretrained_s, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at .*nowhere.pth"):
        convert(tmp_path / "nowhere.pth", tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"ends in '.bin'; expected .pth, .safetensors, .pkl"):
        convert(pretrained_s, tmp_path / "w.bin")
    with pytest.raises(ValueError, match="Found encoder 'both'"):
        convert(pretrained_s, tmp_path / "w.pth", branch="both")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ValueError, match="pip install safetensors"):
        convert(pretrained_s, tmp_path / "w.safetensors")


def test_input_is_never_output(pretrained_s, tmp_path):
    source = rewrite(pretrained_s, tmp_path / "in.pth", lambda data: None)
    before = source.read_bytes()
    (tmp_path / "link.pth").symlink_to(source)
    for output in (source, tmp_path / "link.pth", tmp_path / "." / "in.pth"):
        with pytest.raises(ValueError, match="is INPUT itself"):
            convert(source, output, overwrite=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize("existing", ["w.pth", "w.yaml"])
def test_existing_files_are_replaced_only_when_asked(pretrained_s, tmp_path, existing):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(ValueError, match=rf"{existing} exists\..*--overwrite"):
        convert(pretrained_s, tmp_path / "w.pth")
    assert (tmp_path / existing).read_text() == "mine"
    convert(pretrained_s, tmp_path / "w.pth", overwrite=True)
    assert (tmp_path / existing).read_bytes() != b"mine"


@pytest.mark.parametrize("step", ["torch.save", "detcon_d2.checkpoint.convert.converter.verify_conversion"])
def test_a_conversion_that_stops_half_way_leaves_the_old_files_and_no_rest(pretrained_s, tmp_path, monkeypatch, step):
    (tmp_path / "w.pth").write_text("old")
    (tmp_path / "w.yaml").write_text("old")

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(step, stop)
    with pytest.raises(KeyboardInterrupt):
        convert(pretrained_s, tmp_path / "w.pth", overwrite=True, check=True)
    assert {name: (tmp_path / name).read_text() for name in os.listdir(tmp_path)} == {"w.pth": "old", "w.yaml": "old"}
