"""Every style of the table reads its publisher's files whole: detected, complete, exact, or an error that names the key."""

import re

import pytest
import torch

from detcon_d2.checkpoint.convert.key_maps import target_keys
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.checkpoint.convert.styles import STYLES
from tests.checkpoint.published import PUBLISHED, WITHOUT_EMA, extra, inner_state, publish, sequential, staged, under


def expected(spec, tensors):
    """Tensors in torchvision's names -> Detectron2's."""
    return {name: tensors[key] for name, key in target_keys("torchvision", spec).items()}


@pytest.mark.parametrize("style", PUBLISHED)
def test_a_published_file_is_detected_and_both_its_encoders_are_read_exactly(tmp_path, style):
    path, online, ema = publish(tmp_path, style)
    found = read_checkpoint(path)
    assert found.style == style and found.spec.depth == 18 and found.notes[0].startswith(f"style {style}: ")
    torch.testing.assert_close(found.tensors, expected(found.spec, online), rtol=0, atol=0)
    torch.testing.assert_close(read_checkpoint(path, style).tensors, found.tensors, rtol=0, atol=0)
    if style in WITHOUT_EMA:
        with pytest.raises(ValueError, match=f"has no EMA encoder that style {style} knows. Use --encoder online"):
            read_checkpoint(path, branch="ema")
    else:
        found = read_checkpoint(path, branch="ema")
        torch.testing.assert_close(found.tensors, expected(found.spec, ema), rtol=0, atol=0)


@pytest.mark.parametrize("part", ["0.conv2.weight", "1.bn2.running_var"])
@pytest.mark.parametrize("style", PUBLISHED)
def test_a_missing_tensor_is_named(tmp_path, style, part):
    def lose(content):
        state = inner_state(content)
        del state[next(key for key in state if key.endswith(part))]

    listed = rf"missing: \S*{part}"
    if style == "byol-lucidrains":
        # Its first copy of the encoder is the one that is not read.
        part = f"online_encoder.net.layer1.{part}"
    path, *_ = publish(tmp_path, style, lose)
    with pytest.raises(ValueError, match=rf"\(style {style}\) is not the ResNet-18 (?s:.)*{listed}"):
        read_checkpoint(path)


@pytest.mark.parametrize("style", PUBLISHED)
def test_an_unknown_tensor_is_named(tmp_path, style):
    def add(content):
        state = inner_state(content)
        wrapped = "module." if all(key.startswith("module.") for key in state) else ""
        state[f"{wrapped}surprise.weight"] = torch.zeros(1)

    path, *_ = publish(tmp_path, style, add)
    with pytest.raises(ValueError, match=rf"\(style {style}\) (?s:.)*unexpected\S*( outside the encoder)?:? \S*surprise.weight"):
        read_checkpoint(path)


def test_a_wrong_shape_a_wrong_type_and_a_nan_are_named_together(tmp_path):
    def spoil(content):
        state = inner_state(content)
        state["module.encoder_q.conv1.weight"] = torch.zeros(8, 3, 3, 3)
        state["module.encoder_q.bn1.weight"] = torch.ones(8, dtype=torch.int32)
        state["module.encoder_q.layer1.0.bn2.bias"][2:4] = float("nan")

    path, *_ = publish(tmp_path, "moco", spoil)
    with pytest.raises(ValueError) as error:
        read_checkpoint(path)
    assert "wrong shape: conv1.weight is (8, 3, 3, 3); expected (8, 3, 7, 7)" in str(error.value)
    assert "wrong type: bn1.weight is torch.int32; expected torch.float32" in str(error.value)
    assert "not finite: layer1.0.bn2.bias has 2 of 8 values NaN or infinite" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32_and_it_is_reported(tmp_path, dtype):
    def cast(content):
        content |= {key: value.to(dtype) for key, value in content.items() if value.is_floating_point()}

    path, online, _ = publish(tmp_path, "torchvision", cast)
    found = read_checkpoint(path)
    assert any(f"converted to float32: 100 tensors of {dtype}" in note for note in found.notes)
    torch.testing.assert_close(found.tensors["stem.conv1.weight"], online["conv1.weight"].to(dtype).float(), rtol=0, atol=0)


def test_absent_counts_of_batches_are_zero_and_it_is_reported(tmp_path):
    def lose(content):
        for key in [key for key in content if key.endswith("num_batches_tracked")]:
            del content[key]

    found = read_checkpoint(publish(tmp_path, "torchvision", lose)[0])
    assert any("lacks for 20 norms, is set to 0" in note for note in found.notes)
    assert found.tensors["stem.conv1.norm.num_batches_tracked"].item() == 0


@pytest.mark.parametrize(
    ("wrapper", "style"),
    [
        ("module.", "torchvision"),
        ("_orig_mod.", "torchvision"),
        ("_orig_mod.module.", "torchvision"),
        ("backbone._orig_mod.", "bare"),
        ("_orig_mod.backbone.module.", "bare"),
        ("model._orig_mod.backbone.", "bare"),
    ],
)
@pytest.mark.parametrize("place", ["state_dict", "model", "module", "net", "encoder", "model_state_dict", ""])
def test_wrappers_are_taken_off_wherever_they_stand(tmp_path, wrapper, style, place):
    path, online, _ = publish(tmp_path, "torchvision")
    state = under(wrapper, online)
    torch.save({place: state, "step": 3} if place else state, path)
    found = read_checkpoint(path)
    assert found.style == style
    torch.testing.assert_close(found.tensors, expected(found.spec, online), rtol=0, atol=0)


@pytest.mark.parametrize("style", ["vicreg", "barlowtwins", "dino", "densecl", "timm", "simclr-converter"])
def test_bare_backbones_are_torchvisions_unless_the_style_is_given(tmp_path, style):
    path, online, _ = publish(tmp_path, "torchvision")
    torch.save(online, path)
    assert read_checkpoint(path).style == "torchvision"
    forced = read_checkpoint(path, style)
    assert forced.style == style and forced.metadata["pixel_std"][0] == (255.0 if style == "simclr-converter" else 58.395)
    torch.testing.assert_close(forced.tensors, expected(forced.spec, online), rtol=0, atol=0)


def test_equal_styles_are_named_and_unequal_ones_are_an_error(tmp_path):
    path, online, ema = publish(tmp_path, "torchvision")
    assert "; equally timm" in read_checkpoint(path).notes[0]
    torch.save({"online_backbone": online, "student": under("backbone.", ema)}, path)
    with pytest.raises(ValueError, match=r"several styles that read it differently: dino, byol-convert. Choose one with --from"):
        read_checkpoint(path)
    assert read_checkpoint(path, "byol-convert").metadata["padding"] == "same"


def test_a_style_that_is_not_the_files_is_an_error(tmp_path):
    path, *_ = publish(tmp_path, "swav")
    with pytest.raises(ValueError, match=r"swav.pth is not of style moco: no backbone where .* Its first keys: module.conv1"):
        read_checkpoint(path, "moco")
    with pytest.raises(ValueError, match=r"Found style 'mocov4'; expected one of detcon_d2, haiku"):
        read_checkpoint(path, "mocov4")


def test_what_is_dropped_is_listed_by_name_with_its_reason(tmp_path):
    found = read_checkpoint(publish(tmp_path, "moco")[0])
    assert found.dropped["queue_ptr"] == "queue of negatives" and found.dropped["encoder_k.layer1.0.conv1.weight"] == "ema encoder"
    assert "dropped, projection head: encoder_q.fc.0.weight, encoder_q.fc.2.bias, encoder_k.fc.0.weight (3)" in found.notes
    assert "dropped, queue of negatives: queue, queue_ptr (2)" in found.notes
    assert "dropped, not part of the network: epoch, optimizer, arch (3)" in found.notes
    assert any(note.startswith("dropped, ema encoder: encoder_k.conv*.weight, ") and note.endswith("(120)") for note in found.notes)


def test_facts_of_the_caller_come_before_those_of_the_style(tmp_path):
    path, *_ = publish(tmp_path, "moco")
    found = read_checkpoint(path, facts={"method": "MoCo v2", "pixel_std": (1.0, 1.0, 1.0), "channel_order": "BGR", "stride_in_1x1": True})
    assert (found.metadata["method"], found.metadata["pixel_std"], found.metadata["channel_order"]) == ("MoCo v2", [1.0, 1.0, 1.0], "BGR")
    assert found.metadata["pixel_mean"] == [123.675, 116.28, 103.53] and found.metadata["style"] == "moco"
    assert found.spec.stride_in_1x1


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"channel_order": "RBG"}, "channel_order 'RBG'; expected one of"),
        ({"padding": "valid"}, "padding 'valid'; expected one of"),
        ({"pixel_mean": [1.0]}, r"pixel_mean \[1.0\]; expected 3 numbers"),
        ({"depth": 50}, r"depth \(it follows from the tensors\)"),
    ],
)
def test_facts_that_cannot_be_are_refused(tmp_path, facts, message):
    with pytest.raises(ValueError, match=message):
        read_checkpoint(publish(tmp_path, "torchvision")[0], facts=facts)


@pytest.mark.parametrize("prefix", ["backbone.bottom_up.", "bottom_up.", "backbone.", ""])
def test_detectron2s_detectors_and_backbones_are_read(tmp_path, prefix):
    path, *_ = publish(tmp_path, "torchvision")
    bare = read_checkpoint(path)
    state = under(prefix, bare.tensors) | extra("proposal_generator.rpn_head.conv.weight", "roi_heads.box_head.fc1.weight", "pixel_mean")
    state |= extra("backbone.fpn_output2.weight") | ({} if prefix else extra("stem.fc.weight"))
    torch.save({"model": state, "iteration": 7}, tmp_path / "d2.pth")
    found = read_checkpoint(tmp_path / "d2.pth")
    assert found.style == "detectron2" and any("check by hand: channel_order, pixel_mean" in note for note in found.notes)
    torch.testing.assert_close(found.tensors, bare.tensors, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [">f4", "U4", "longdouble"])
def test_arrays_of_other_machines_are_read_and_those_of_no_number_named(tmp_path, monkeypatch, dtype):
    arrays = {key: value.numpy() for key, value in publish(tmp_path, "torchvision")[1].items()}
    value = arrays["layer1.0.bn1.bias"]
    arrays["layer1.0.bn1.bias"] = value.astype(dtype)
    # Whatever the loaders let through, a reader must not fail without a name.
    monkeypatch.setattr("detcon_d2.checkpoint.convert.readers.load_checkpoint_file", lambda path: arrays)
    if dtype == ">f4":
        assert torch.equal(read_checkpoint("in.pkl").tensors["res2.0.conv1.norm.bias"], torch.from_numpy(value))
    else:
        with pytest.raises(ValueError, match=r"in.pkl: Tensor layer1.0.bn1.bias is an array of .*expected one of float32"):
            read_checkpoint("in.pkl")


@pytest.mark.parametrize("prefix", ["resnet.", "net.", "model.", "anything.of.mine."])
def test_the_only_resnet_of_a_file_is_found_under_any_prefix(tmp_path, prefix):
    path, online, _ = publish(tmp_path, "torchvision")
    torch.save({"model_state_dict": under(prefix, online)}, path)
    found = read_checkpoint(path)
    assert found.style == "bare" and f"under {prefix!r}" in found.notes[0]
    torch.testing.assert_close(found.tensors, expected(found.spec, online), rtol=0, atol=0)


@pytest.mark.parametrize("given", ["mine.b.", "mine.b", "nets.second.mine.b.", "mine.module.b."])
@pytest.mark.parametrize("names", [dict, sequential, staged])
def test_a_prefix_chooses_one_of_several_resnets_and_drops_the_rest(tmp_path, given, names):
    path, online, ema = publish(tmp_path, "torchvision")
    second = under("mine.a.", names(online)) | under("mine.b.", names(ema)) | extra("mine.b.fc.weight", "head.weight")
    torch.save({"nets": {"first": extra("w"), "second": second}, "epoch": 1}, path)
    with pytest.raises(ValueError, match=r"is of no known style: .*--prefix names the ResNet"):
        read_checkpoint(path)
    found = read_checkpoint(path, prefix=given)
    torch.testing.assert_close(found.tensors, expected(found.spec, ema), rtol=0, atol=0)
    assert found.dropped["head.weight"] == found.dropped["mine.a." + next(iter(names(online)))] == "outside the prefix"
    assert read_checkpoint(path, "byol-convert" if names is dict else None, prefix=given).metadata["padding"] == (
        "same" if names is dict else "symmetric"
    )


def test_a_prefix_without_a_resnet_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"has no ResNet whose names begin with 'net\.'\. Its first keys"):
        read_checkpoint(publish(tmp_path, "moco")[0], prefix="net.")


def test_detcons_weights_in_torchs_layout_are_read_with_the_padding_of_their_training(tmp_path):
    path, online, _ = publish(tmp_path, "torchvision")
    rules = [(r"^conv1", "initial_conv"), (r"^bn1", "initial_batchnorm"), (r"downsample\.0", "shortcut_conv")]
    rules += [(r"downsample\.1", "shortcut_batchnorm"), (r"^layer(\d)\.(\d+)\.", r"block_groups.block_group_\1.blocks.block_\2.")]
    rules += [(rf"\.{old}{n + 1}\.", f".{new}_{n}.") for old, new in (("conv", "conv"), ("bn", "batchnorm")) for n in range(3)]
    rules += [(f"block_group_{n + 1}", f"block_group_{n}") for n in range(4)]
    renamed = {}
    for key, value in online.items():
        for old, new in rules:
            key = re.sub(old, new, key)
        renamed[key] = value
    assert "block_groups.block_group_1.blocks.block_0.batchnorm_1.running_var" in renamed
    torch.save(renamed, path)
    found = read_checkpoint(path)
    assert (found.style, found.metadata["padding"], found.spec.stride_in_1x1) == ("haiku-torch", "same", False)
    torch.testing.assert_close(found.tensors, expected(found.spec, online), rtol=0, atol=0)


def test_every_style_has_a_test():
    assert set(STYLES) - set(PUBLISHED) == {"detcon_d2", "haiku", "haiku-torch", "detectron2", "timm", "simclr-converter"}
