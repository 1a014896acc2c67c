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
from detcon_d2.checkpoint.convert.conversion import prepare_conversion
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.engine import load_config
from tests.checkpoint.pretrained import FULL_18, pretraining_config, rewrite, write_pretrained

FORMATS = [
    "pkl",
    "pth",
    pytest.param(
        "safetensors", marks=pytest.mark.skipif(not importlib.util.find_spec("safetensors"), reason="safetensors is not installed")
    ),
]


def encoder_of(path, prefix="encoder."):
    state = load_checkpoint_file(path)["model"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def backbone_of(path):
    state = load_checkpoint_file(path)["model"]
    assert all(key.startswith("backbone.bottom_up.") for key in state)
    return {key.removeprefix("backbone.bottom_up."): torch.as_tensor(value) for key, value in state.items()}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("branch", "prefix"), [("online", "encoder."), ("ema", "target.encoder.")])
def test_every_format_holds_the_chosen_encoder_bit_by_bit(pretrained_b, tmp_path, suffix, branch, prefix):
    convert(pretrained_b, tmp_path / f"w.{suffix}", branch=branch, check=True)
    found, expected = backbone_of(tmp_path / f"w.{suffix}"), encoder_of(pretrained_b, prefix)
    assert list(found) == list(expected) or suffix == "safetensors"
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_two_branches_of_detcon_b_differ(pretrained_b, tmp_path):
    for branch in ("online", "ema"):
        convert(pretrained_b, tmp_path / f"{branch}.pth", branch=branch)
    online, ema = (backbone_of(tmp_path / f"{branch}.pth") for branch in ("online", "ema"))
    assert not torch.equal(online["res5.2.conv3.norm.weight"], ema["res5.2.conv3.norm.weight"])


@pytest.mark.parametrize("suffix", FORMATS)
def test_metadata_is_carried_with_branch_and_hash(pretrained_b, tmp_path, suffix):
    lines = convert(pretrained_b, tmp_path / f"w.{suffix}", branch="ema")
    added = {
        "encoder": "ema",
        "converted_to": "detectron2",
        "style": "detcon_d2",
        "source_file": "model_final.pth",
        "source_sha256": hashlib.sha256(pretrained_b.read_bytes()).hexdigest(),
    }
    found = read_metadata(tmp_path / f"w.{suffix}")
    assert found == read_metadata(pretrained_b) | added
    for key in ("epochs: 2.0", "encoder: ema", "mask_parameters: grid 2", "pixel_mean: [123.675, 116.28, 103.53]", "method: DetConB"):
        assert f"  {key}" in lines


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


@pytest.mark.parametrize("suffix", FORMATS)
def test_our_checkpointer_loads_every_format(pretrained_s, tmp_path, suffix):
    convert(pretrained_s, tmp_path / f"w.{suffix}")
    model = torch.nn.ModuleDict({"backbone": torch.nn.ModuleDict({"bottom_up": d2.build_backbone(pretraining_config())})})
    checkpointer = DetConCheckpointer(model)
    checkpointer.resume_or_load(str(tmp_path / f"w.{suffix}"), resume=False)
    assert checkpointer.missing_keys == ()
    torch.testing.assert_close(dict(model["backbone"]["bottom_up"].state_dict()), encoder_of(pretrained_s), rtol=0, atol=0)


@pytest.mark.parametrize("suffix", ["pkl", "safetensors"])
def test_input_may_be_of_another_format(pretrained_s, tmp_path, suffix):
    data = load_checkpoint_file(pretrained_s)
    if suffix == "pkl":
        arrays = {key: value.numpy() for key, value in data["model"].items()}
        (tmp_path / "in.pkl").write_bytes(pickle.dumps({"model": arrays, "metadata": data["metadata"]}))
    else:
        safetensors = pytest.importorskip("safetensors.torch")
        header = {"metadata": json.dumps(data["metadata"])}
        safetensors.save_file({key: value.contiguous() for key, value in data["model"].items()}, tmp_path / "in.safetensors", header)
    convert(tmp_path / f"in.{suffix}", tmp_path / "w.pth", check=True)
    torch.testing.assert_close(backbone_of(tmp_path / "w.pth"), encoder_of(pretrained_s), rtol=0, atol=0)


@pytest.mark.parametrize("target", ["torchvision", "timm"])
@pytest.mark.parametrize("suffix", FORMATS[1:])
def test_libraries_load_their_names_strictly_but_for_fc(pretrained_18, tmp_path, target, suffix):
    if target == "timm":
        timm = pytest.importorskip("timm")
        model = timm.create_model("resnet18", pretrained=False)
    else:
        model = torchvision.models.resnet18()
    lines = convert(pretrained_18, tmp_path / f"w.{suffix}", target=target, check=True)
    assert any("features before and after conversion agree" in line for line in lines)
    loaded = load_checkpoint_file(tmp_path / f"w.{suffix}")
    state = loaded["model"] if suffix == "safetensors" else loaded
    report = model.load_state_dict(state, strict=False)
    assert set(report.missing_keys) == {"fc.weight", "fc.bias"} and not report.unexpected_keys
    beside = json.loads((tmp_path / "w.json").read_text())
    assert beside["mean"] == pytest.approx([0.485, 0.456, 0.406]) and beside["channel_order"] == "RGB" and beside["epochs"] == 2.0


def test_resnet50_goes_to_torchvision_with_the_same_features(pretrained_50, tmp_path):
    lines = convert(pretrained_50, tmp_path / "w.pth", target="torchvision", check=True)
    assert any("features before and after conversion agree" in line for line in lines)
    report = torchvision.models.resnet50().load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True), strict=False)
    assert set(report.missing_keys) == {"fc.weight", "fc.bias"} and not report.unexpected_keys


def test_libraries_refuse_what_they_cannot_build(pretrained_s, pretrained_50, tmp_path):
    with pytest.raises(ValueError, match=r"torchvision has no ResNet-50 \(STEM_OUT_CHANNELS 8.*published channels"):
        convert(pretrained_s, tmp_path / "w.pth", target="torchvision")
    inside = rewrite(pretrained_50, tmp_path / "in.pth", lambda data: data["metadata"].update(stride_in_1x1=True))
    with pytest.raises(ValueError, match="STRIDE_IN_1X1 True; torchvision's ResNets have the stride in the 3x3"):
        convert(inside, tmp_path / "w.pth", target="torchvision")
    with pytest.raises(ValueError, match=r"ends in '.pkl'; expected .pth, .safetensors for timm"):
        convert(pretrained_s, tmp_path / "w.pkl", target="timm")


@pytest.mark.parametrize("depth", [18, 200])
def test_what_plain_detectron2_cannot_build_gets_our_backbone(tmp_path, depth):
    wide = {"MODEL__META_ARCHITECTURE": "DetConS", "MODEL__RESNETS__DEPTH": depth}
    if depth == 18:
        wide |= {"MODEL__RESNETS__RES2_OUT_CHANNELS": 64, "DETCON__WIDTH_MULTIPLIER": 2}
    source = write_pretrained(tmp_path / "in.pth", **wide)
    convert(source, tmp_path / "w.pth", check=True)
    config = yaml.safe_load((tmp_path / "w.yaml").read_text())
    assert config["MODEL"]["BACKBONE"]["NAME"] == "build_detcon_resnet_fpn_backbone"
    assert config["DETCON"]["WIDTH_MULTIPLIER"] == (2 if depth == 18 else 1)


def test_a_network_that_ends_with_res4_stays_one(tmp_path):
    ends = {"MODEL__RESNETS__OUT_FEATURES": "['res4']", "DETCON__IN_FEATURE": "res4"}
    source = write_pretrained(tmp_path / "in.pth", MODEL__META_ARCHITECTURE="DetConS", **ends)
    lines = convert(source, tmp_path / "w.pth", check=True)
    assert any("agree: largest relative differences res2" in line and "res5" not in line for line in lines)
    assert "up to res4" in lines[0] and read_metadata(tmp_path / "w.pth")["last_stage"] == 4
    assert "res5" not in (tmp_path / "w.yaml").read_text()
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


def test_a_wide_resnet50_stays_plain_detectron2(tmp_path):
    source = write_pretrained(tmp_path / "in.pth", MODEL__META_ARCHITECTURE="DetConS", DETCON__WIDTH_MULTIPLIER=2)
    convert(source, tmp_path / "w.pth", check=True)
    text = (tmp_path / "w.yaml").read_text()
    assert "DETCON" not in text and "STEM_OUT_CHANNELS: 16" in text and "WIDTH_PER_GROUP: 8" in text


def test_a_checkpoint_without_metadata_says_what_was_inferred_and_assumed(pretrained_18, tmp_path):
    bare = tmp_path / "bare.pth"
    torch.save(load_checkpoint_file(pretrained_18)["model"], bare)
    lines = convert(bare, tmp_path / "w.pth", check=True)
    assert any("no metadata. From its tensors: ResNet-18. Assumed" in line and "pixel_mean" in line for line in lines)
    assert read_metadata(tmp_path / "w.pth")["depth"] == 18 and "channel_order" not in read_metadata(tmp_path / "w.pth")
    assert "these are DetCon's: channel_order, pixel_mean" in (tmp_path / "w.yaml").read_text()


KEY, WEIGHT = "encoder.res4.3.conv2.weight", "encoder.res2.0.conv1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["model"].pop(KEY), "missing: res4.3.conv2.weight"),
        (
            lambda d: d["model"].update({WEIGHT: torch.zeros(4, 8, 3, 3)}),
            r"wrong shape: res2.0.conv1.weight is \(4, 8, 3, 3\); expected \(4, 8, 1, 1\)",
        ),
        (
            lambda d: d["model"].update({WEIGHT: d["model"][WEIGHT].int()}),
            "wrong type: res2.0.conv1.weight is torch.int32; expected torch.float32",
        ),
        (lambda d: d["model"].update({"encoder.res6.weight": torch.zeros(1)}), "unexpected: res6.weight"),
        (lambda d: d["model"].update({"surprise.weight": torch.zeros(1)}), "unexpected beside the encoder: surprise.weight"),
        (lambda d: d["metadata"].update(depth=101), r"the tensors look like a ResNet-50 (?s:.)*missing: res4.6.conv1.weight"),
    ],
    ids=["missing", "shape", "type", "unexpected", "beside", "depth"],
)
def test_every_tensor_that_does_not_fit_is_named(pretrained_s, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        convert(rewrite(pretrained_s, tmp_path / "in.pth", change), tmp_path / "w.pth")
    assert sorted(os.listdir(tmp_path)) == ["in.pth"]


def test_metadata_of_depth_50_over_tensors_of_depth_18_says_both(pretrained_18, tmp_path):
    wrong = rewrite(pretrained_18, tmp_path / "in.pth", lambda d: d["metadata"].update(depth=50, res2_out_channels=256))
    with pytest.raises(ValueError, match=r"not the ResNet-50 that .*tensors look like a ResNet-18\.(?s:.)*missing: res2.0.conv3.weight"):
        convert(wrong, tmp_path / "w.pth")


class RunsCode:
    def __init__(self, target: str):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def _unrelated(kind, folder, pretrained):
    """A file that holds no ResNet, and what the message must say."""
    path = folder / "in.pth"
    if kind == "json":
        path.write_text('{"images": []}')
    elif kind == "text":
        path.write_text("hello, this is a text")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes(pretrained.read_bytes()[:100_000])
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "transformer":
        torch.save({"model": {"blocks.0.attn.qkv.weight": torch.zeros(2)}, "epoch": 1}, path)
    elif kind == "malicious":
        torch.save({"model": RunsCode(str(folder / "owned"))}, path)
    elif kind == "malicious pickle":
        path = folder / "in.pkl"
        path.write_bytes(pickle.dumps({"model": RunsCode(str(folder / "owned"))}))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("json", "cut short or damaged"),
        ("text", "cut short or damaged"),
        ("empty", "cut short or damaged"),
        ("truncated", "cut short or damaged"),
        ("list", "holds no state dict: expected a dict of tensors, such as a DetCon pretraining checkpoint. It is a list"),
        ("transformer", r"is of no known style.*first keys: model: blocks.0.attn.qkv.weight ...; epoch. Known styles: detcon_d2, haiku"),
        ("malicious", "asks for posix.mkdir; only tensors"),
        ("malicious pickle", "asks for posix.mkdir; only tensors"),
    ],
)
def test_an_unrelated_file_is_refused_clearly_and_nothing_is_written(pretrained_s, tmp_path, kind, message):
    source = _unrelated(kind, tmp_path, pretrained_s)
    with pytest.raises(ValueError, match=message) as error:
        convert(source, tmp_path / "w.pth")
    assert str(source) in str(error.value) and "weights_only" not in str(error.value)
    assert os.listdir(tmp_path) == [source.name]


def test_converted_weights_are_read_again_with_their_metadata(pretrained_b, tmp_path):
    convert(pretrained_b, tmp_path / "w.pkl", branch="ema")
    lines = convert(tmp_path / "w.pkl", tmp_path / "again.pth", check=True)
    assert lines[2:] and any(line.startswith("style detectron2: ") and "'backbone.bottom_up.'" in line for line in lines)
    torch.testing.assert_close(backbone_of(tmp_path / "again.pth"), encoder_of(pretrained_b, "target.encoder."), rtol=0, atol=0)
    metadata = read_metadata(tmp_path / "again.pth")
    assert (metadata["epochs"], metadata["encoder"]) == (2.0, "ema")


def test_detcon_s_has_no_ema_encoder(pretrained_s, tmp_path):
    with pytest.raises(ValueError, match=r"no EMA encoder .*the method of this checkpoint keeps none.*Use --encoder online"):
        convert(pretrained_s, tmp_path / "w.pth", branch="ema")


def test_a_missing_input_and_an_unknown_format_are_named(pretrained_s, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at .*nowhere.pth"):
        convert(tmp_path / "nowhere.pth", tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"ends in '.bin'; expected .pth, .safetensors, .pkl"):
        convert(pretrained_s, tmp_path / "w.bin")
    with pytest.raises(ValueError, match="Found encoder 'both'"):
        prepare_conversion(pretrained_s, "both")


def test_safetensors_without_the_package_says_how_to_get_it(pretrained_s, tmp_path, monkeypatch):
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
    convert(source, tmp_path / "w.pth", check=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize("existing", ["w.pth", "w.yaml"])
def test_existing_files_are_replaced_only_when_asked(pretrained_s, tmp_path, existing):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(ValueError, match=rf"{existing} exists\..*--overwrite"):
        convert(pretrained_s, tmp_path / "w.pth")
    assert (tmp_path / existing).read_text() == "mine"
    convert(pretrained_s, tmp_path / "w.pth", overwrite=True)
    assert (tmp_path / existing).read_bytes() != b"mine"


def test_a_write_that_dies_half_way_leaves_the_old_files_and_no_rest(pretrained_s, tmp_path, monkeypatch):
    (tmp_path / "w.pth").write_text("old")
    (tmp_path / "w.yaml").write_text("old")

    def die(data, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        convert(pretrained_s, tmp_path / "w.pth", overwrite=True)
    assert {name: (tmp_path / name).read_text() for name in os.listdir(tmp_path)} == {"w.pth": "old", "w.yaml": "old"}


def test_a_failed_check_leaves_nothing(pretrained_s, tmp_path, monkeypatch):
    def fail(conversion, weights, companion):
        assert weights.is_file() and companion.is_file()
        raise ValueError("features differ")

    monkeypatch.setattr("detcon_d2.checkpoint.convert.converter.verify_conversion", fail)
    with pytest.raises(ValueError, match="features differ"):
        convert(pretrained_s, tmp_path / "new" / "w.pth", check=True)
    assert os.listdir(tmp_path / "new") == []


@pytest.mark.parametrize("overrides", [{}, {"MODEL__RESNETS__STRIDE_IN_1X1": True}, FULL_18], ids=["50", "stride", "18"])
def test_the_yaml_fits_the_checkpoint(tmp_path, overrides):
    source = write_pretrained(tmp_path / "in.pth", MODEL__META_ARCHITECTURE="DetConS", MODEL__PIXEL_STD="[1.0, 2.0, 3.0]", **overrides)
    convert(source, tmp_path / "w.pth", check=True)
    cfg = d2.get_cfg()
    cfg.merge_from_file(str(tmp_path / "w.yaml"))
    metadata, model = read_metadata(source), cfg.MODEL
    assert (cfg.INPUT.FORMAT, list(model.PIXEL_MEAN), list(model.PIXEL_STD)) == ("RGB", metadata["pixel_mean"], [1.0, 2.0, 3.0])
    assert (model.RESNETS.DEPTH, model.RESNETS.STRIDE_IN_1X1) == (metadata["depth"], metadata["stride_in_1x1"])
    assert (model.RESNETS.NORM, model.FPN.NORM, model.BACKBONE.FREEZE_AT) == ("SyncBN", "SyncBN", 0)
    assert model.RESNETS.RES2_OUT_CHANNELS == metadata["res2_out_channels"]
