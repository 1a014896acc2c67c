"""Fine-tuning starts only with a config that fits its weights, and reports what could not be compared."""

import pickle

import numpy as np
import pytest
import torch
import torchvision

from detcon_d2 import add_detcon_config, d2
from detcon_d2.checkpoint import DetConCheckpointer, check_weights, describe_missing, load_checkpoint_file
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.metadata import read_metadata
from detcon_d2.checkpoint.safe_load import files
from tests.checkpoint.pretrained import write_pretrained


@pytest.fixture(scope="module")
def converted(pretrained_b, tmp_path_factory):
    """Weights with metadata, and their YAML next to them."""
    path = tmp_path_factory.mktemp("converted") / "w.pkl"
    convert(pretrained_b, path)
    return path


def config(path, *opts: object) -> "d2.CfgNode":
    """The YAML written next to converted weights, with overrides."""
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.merge_from_file(str(path.with_suffix(".yaml")))
    cfg.merge_from_list([str(item) for item in opts])
    return cfg


def test_weights_and_the_yaml_written_with_them_agree(converted):
    lines = check_weights(config(converted), str(converted))
    assert lines == [f"MODEL.WEIGHTS {converted}: DetConB, online encoder, 2 epochs, ResNet-50. The config agrees with it."]


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "naiveSyncBN"])
def test_every_kind_of_trained_batch_norm_is_accepted(converted, norm):
    assert len(check_weights(config(converted, "MODEL.RESNETS.NORM", norm), str(converted))) == 1


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("INPUT.FORMAT", "BGR", "RGB"),
        ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675], [123.675, 116.28, 103.53]),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], [58.395, 57.12, 57.375]),
        ("MODEL.RESNETS.STRIDE_IN_1X1", True, False),
        ("MODEL.RESNETS.DEPTH", 101, 50),
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", 256, 16),
        ("MODEL.RESNETS.STEM_OUT_CHANNELS", 64, 8),
        ("MODEL.RESNETS.NORM", "FrozenBN", "SyncBN"),
        ("MODEL.RESNETS.NORM", "", "SyncBN"),
    ],
)
def test_a_disagreement_is_refused_with_key_found_and_expected(converted, key, value, expected):
    message = f"{key} is {value!r}; expected {expected!r}."
    with pytest.raises(ValueError, match=r"DETCON\.CHECK_WEIGHTS False starts nevertheless") as error:
        check_weights(config(converted, key, value), str(converted))
    assert message in str(error.value) and str(converted) in str(error.value)
    lines = check_weights(config(converted, key, value, "DETCON.CHECK_WEIGHTS", False), str(converted))
    started = f"Warning: {message} Started nevertheless, because DETCON.CHECK_WEIGHTS is False."
    assert [line for line in lines if line.startswith("Warning:")] == [started] and "agrees" not in lines[0]


OURS = ("MODEL.BACKBONE.NAME", "build_detcon_resnet_fpn_backbone")
SAME = (*OURS, "DETCON.BACKBONE.PADDING", "same")


def with_padding(source, path, padding: str | None, **changes: object):
    """A copy of converted weights whose metadata report another padding, or none; an entry that is None is left out."""
    data = load_checkpoint_file(source)
    metadata = data["metadata"] | {"padding": padding} | changes
    path.write_bytes(pickle.dumps(data | {"metadata": {key: value for key, value in metadata.items() if value is not None}}))
    return str(path)


@pytest.mark.parametrize("opts", [(), OURS, SAME])
@pytest.mark.parametrize("reported", ["same", "symmetric", None])
def test_only_the_padding_of_the_weights_is_accepted(converted, tmp_path, reported, opts):
    weights = with_padding(converted, tmp_path / "w.pkl", reported)
    found, expected = "same" if opts == SAME else "symmetric", reported or "symmetric"
    if found == expected:
        assert len(check_weights(config(converted, *opts), weights)) == 1
        return
    with pytest.raises(ValueError, match=rf"DETCON.BACKBONE.PADDING is '{found}'; expected '{expected}'") as refusal:
        check_weights(config(converted, *opts), weights)
    assert ("MODEL.BACKBONE.NAME build_detcon_resnet_fpn_backbone" in str(refusal.value)) == (expected == "same")


@pytest.mark.parametrize(("opts", "found"), [((), "symmetric"), (SAME, "same")])
def test_an_unknown_padding_of_foreign_weights_is_left_to_the_user(converted, tmp_path, opts, found):
    lines = check_weights(config(converted, *opts), with_padding(converted, tmp_path / "w.pkl", None, format=None))
    assert len(lines) == 2 and lines[1].endswith(f"Check by hand: DETCON.BACKBONE.PADDING '{found}'.")


def test_a_backbone_that_would_ignore_the_padding_is_refused(converted, tmp_path):
    weights = with_padding(converted, tmp_path / "w.pkl", "same")
    with pytest.raises(ValueError, match="'build_resnet_fpn_backbone' would ignore; expected 'build_detcon_resnet_fpn_backbone'"):
        check_weights(config(converted, "DETCON.BACKBONE.PADDING", "same"), weights)


def test_a_detector_with_more_stages_than_the_weights_is_refused(tmp_path):
    ends = {"MODEL__RESNETS__OUT_FEATURES": "['res4']", "DETCON__IN_FEATURE": "res4"}
    convert(write_pretrained(tmp_path / "in.pth", MODEL__META_ARCHITECTURE="DetConS", **ends), tmp_path / "w.pth")
    fits = config(tmp_path / "w.pth")
    assert len(check_weights(fits, str(tmp_path / "w.pth"))) == 1
    longer = config(tmp_path / "w.pth", "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"])
    with pytest.raises(ValueError, match=r"OUT_FEATURES is \['res2', 'res3', 'res4', 'res5'\]; expected \['res2', 'res3', 'res4'\]"):
        check_weights(longer, str(tmp_path / "w.pth"))
    shorter = config(tmp_path / "w.pth", "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3"])
    assert len(check_weights(shorter, str(tmp_path / "w.pth"))) == 1


def test_all_disagreements_are_reported_at_once(converted):
    defaults = d2.get_cfg()
    add_detcon_config(defaults)
    with pytest.raises(ValueError) as error:
        check_weights(defaults, str(converted))
    for key in ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "STRIDE_IN_1X1", "RES2_OUT_CHANNELS", "MODEL.RESNETS.NORM"):
        assert key in str(error.value)


def test_frozen_layers_get_a_warning(converted):
    lines = check_weights(config(converted, "MODEL.BACKBONE.FREEZE_AT", 2), str(converted))
    assert lines[1].startswith("Warning: MODEL.BACKBONE.FREEZE_AT is 2; expected 0")


def test_a_width_multiplier_and_its_channels_written_out_are_the_same(tmp_path):
    source = write_pretrained(tmp_path / "in.pth", MODEL__META_ARCHITECTURE="DetConS", DETCON__WIDTH_MULTIPLIER=2)
    convert(source, tmp_path / "w.pth")
    assert len(check_weights(config(tmp_path / "w.pth"), str(tmp_path / "w.pth"))) == 1
    ours = ("MODEL.BACKBONE.NAME", "build_detcon_resnet_fpn_backbone", "DETCON.WIDTH_MULTIPLIER", 2)
    base = ("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 4)
    assert len(check_weights(config(tmp_path / "w.pth", *ours, *base), str(tmp_path / "w.pth"))) == 1
    with pytest.raises(ValueError, match=r"STEM_OUT_CHANNELS is 32; expected 16"):
        check_weights(config(tmp_path / "w.pth", *ours), str(tmp_path / "w.pth"))


def test_stride_placement_does_not_matter_without_1x1_convolutions(pretrained_18, tmp_path):
    convert(pretrained_18, tmp_path / "w.pth")
    assert len(check_weights(config(tmp_path / "w.pth", "MODEL.RESNETS.STRIDE_IN_1X1", True), str(tmp_path / "w.pth"))) == 1


def test_an_unconverted_checkpoint_names_the_converter(pretrained_b, converted):
    with pytest.raises(ValueError, match=r"is a pretraining checkpoint .*(?s:.)*python tools/convert_to_d2.py .*model_final.pth"):
        check_weights(config(converted, "DETCON.CHECK_WEIGHTS", False), str(pretrained_b))


@pytest.mark.parametrize("kind", ["pkl", "caffe2", "pth"])
def test_weights_without_metadata_get_one_warning_with_the_list(converted, tmp_path, kind):
    path = tmp_path / ("r50.pth" if kind == "pth" else "r50.pkl")
    if kind == "pth":
        torch.save(torchvision.models.resnet18().state_dict(), path)
    else:
        arrays = {"stem.conv1.weight": np.zeros(3)}
        path.write_bytes(pickle.dumps({"blobs": arrays} if kind == "caffe2" else {"model": arrays, "__author__": "x"}))
    lines = check_weights(config(converted), str(path))
    assert len(lines) == 1 and lines[0].startswith(f"Warning: {path} has no metadata")
    keys = ("INPUT.FORMAT 'RGB'", "PIXEL_MEAN [123.675", "PIXEL_STD", "STRIDE_IN_1X1 False", "DEPTH 50", "NORM 'SyncBN'", "FREEZE_AT 0")
    assert all(key in lines[0] for key in keys)


def test_names_of_the_path_manager_are_resolved_and_queries_cut_off(converted, monkeypatch):
    asked = []
    monkeypatch.setattr(d2.PathManager, "get_local_path", lambda path, **_: asked.append(path) or str(converted))
    assert len(check_weights(config(converted), "detectron2://x/w.pkl?matching_heuristics=True")) == 1
    assert asked == ["detectron2://x/w.pkl"]


def test_what_the_metadata_leaves_open_is_listed(pretrained_18, tmp_path):
    torch.save(torch.load(pretrained_18, weights_only=True)["model"], tmp_path / "bare.pth")
    convert(tmp_path / "bare.pth", tmp_path / "w.pth")
    lines = check_weights(config(tmp_path / "w.pth"), str(tmp_path / "w.pth"))
    assert len(lines) == 2 and "Check by hand: INPUT.FORMAT 'RGB', MODEL.PIXEL_MEAN" in lines[1]
    with pytest.raises(ValueError, match="DEPTH is 50; expected 18"):
        check_weights(config(tmp_path / "w.pth", "MODEL.RESNETS.DEPTH", 50), str(tmp_path / "w.pth"))


def test_no_weights_and_absent_weights_have_different_messages(converted):
    assert check_weights(config(converted), "") == ["MODEL.WEIGHTS is empty: the whole model is newly initialised."]
    with pytest.raises(FileNotFoundError, match=r"MODEL.WEIGHTS is /nowhere/w.pkl, which does not exist"):
        check_weights(config(converted), "/nowhere/w.pkl")


def test_fine_tuning_reads_its_weights_once_and_holds_nothing(converted, monkeypatch):
    read, paths = files._read, []
    monkeypatch.setattr(files, "_read", lambda path: paths.append(path) or read(path))
    cfg = config(converted, "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN")
    check_weights(cfg, str(converted))
    assert read_metadata(converted)["depth"] == 50 and files._held
    DetConCheckpointer(torch.nn.ModuleDict({"backbone": d2.build_backbone(cfg)})).resume_or_load(str(converted), resume=False)
    assert paths == [str(converted)] and not files._held
    assert read_metadata(converted)["depth"] == 50 and not files._held


HEADS = [
    "pixel_mean",
    "proposal_generator.anchor_generator.cell_anchors.0",
    "backbone.fpn_lateral2.weight",
    "backbone.fpn_output5.norm.bias",
    "proposal_generator.rpn_head.conv.weight",
    "roi_heads.box_head.fc1.weight",
    "roi_heads.box_predictor.cls_score.weight",
    "roi_heads.mask_head.deconv.weight",
]


def test_new_parts_of_a_detector_are_named_in_one_line():
    assert describe_missing(HEADS) == "newly initialised, as expected: FPN, RPN, box head, mask head"
    assert describe_missing([*HEADS[3:5], "depth_head.p2.weight"]) == "newly initialised, as expected: FPN, RPN, depth_head"
    assert describe_missing(["pixel_std", "backbone.bottom_up.stem.conv1.norm.num_batches_tracked"]) == (
        "every parameter comes from MODEL.WEIGHTS"
    )


@pytest.mark.parametrize("prefix", ["backbone.bottom_up.", "backbone."])
def test_a_missing_backbone_is_an_error_with_its_keys(prefix):
    lost = [f"{prefix}stem.conv1.weight", f"{prefix}res2.0.conv1.norm.weight", f"{prefix}res2.0.conv1.norm.bias"]
    with pytest.raises(ValueError, match=r"lacks 3 tensors of the backbone(?s:.)*convert_to_d2.py") as error:
        describe_missing([*HEADS, *lost])
    assert f"{prefix}stem.conv1.weight" in str(error.value) and "conv1.norm.{weight, bias}" in str(error.value)


@pytest.mark.parametrize("stem", [8, 4])
def test_the_line_follows_from_what_the_checkpointer_reports_and_another_shape_counts_as_missing(converted, stem):
    cfg = config(converted, "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN", "MODEL.RESNETS.STEM_OUT_CHANNELS", stem)
    model = torch.nn.ModuleDict({"backbone": d2.build_backbone(cfg), "proposal_generator": torch.nn.Linear(2, 2)})
    checkpointer = DetConCheckpointer(model)
    checkpointer.resume_or_load(str(converted), resume=False)
    if stem == 8:
        assert describe_missing(checkpointer.missing_keys) == "newly initialised, as expected: FPN, RPN"
    else:
        with pytest.raises(ValueError, match=r"backbone.bottom_up.stem.conv1.weight"):
            describe_missing(checkpointer.missing_keys)
