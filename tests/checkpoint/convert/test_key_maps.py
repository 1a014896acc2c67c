"""The key maps are exact: names and shapes are those of the built networks, both ways."""

import json

import pytest
import torch
import torchvision

from detcon_d2 import d2
from detcon_d2.checkpoint.convert.key_maps import NAMINGS, backbone_shapes, family_keys, grouped, known_keys, target_keys
from detcon_d2.checkpoint.convert.spec import BackboneSpec, spec_from_tensors
from tests.checkpoint.pretrained import FULL_50, pretraining_config

DEPTHS = [18, 34, 50, 101, 152, 200]


def published(depth: int, **changes: object) -> BackboneSpec:
    return BackboneSpec(depth, res2_out_channels=64 if depth < 50 else 256, **changes)


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


SPECS = [published(depth) for depth in DEPTHS]
SPECS += [published(depth, **changes) for depth in (18, 50) for changes in ({"width_multiplier": 2}, {"stem_out_channels": 16})]
SPECS += [published(50, num_groups=4, width_per_group=8), published(50, last_stage=4), published(50, stride_in_1x1=True, padding="same")]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_names_and_shapes_are_those_of_the_encoder_that_the_settings_build(spec):
    cfg = pretraining_config(**FULL_50)
    cfg.merge_from_list([item for pair in spec.settings().items() for item in pair])
    with torch.device("meta"):
        found = shapes_of(d2.build_backbone(cfg))
    assert backbone_shapes(spec) == found and list(backbone_shapes(spec)) == list(found)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_config_and_metadata_give_the_spec_back(spec):
    cfg = pretraining_config(**FULL_50)
    cfg.merge_from_list([item for pair in spec.settings().items() for item in pair])
    assert BackboneSpec.from_config(cfg) == spec == BackboneSpec.from_metadata(spec.metadata())
    assert spec.written_out.channels == spec.channels and spec.written_out.width_multiplier == 1


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_torchvision_map_reaches_every_tensor_of_its_resnet_but_fc(depth):
    spec = published(depth)
    with torch.device("meta"):
        theirs = shapes_of(torchvision.models.get_model(f"resnet{depth}", weights=None))
    shapes = backbone_shapes(spec)
    mapped = {key: shapes[name] for name, key in target_keys("torchvision", spec).items()}
    assert mapped == {key: shape for key, shape in theirs.items() if not key.startswith("fc.")}


def test_names_are_those_of_the_released_models_map(shared_dir):
    oracle = json.loads((shared_dir / "oracles" / "key_map_resnet50.json").read_text())
    pairs = {entry["detectron2"]: entry["torchvision"] for entry in oracle}
    ours = target_keys("torchvision", published(50))
    assert pairs == {name: target for name, target in ours.items() if not name.endswith("num_batches_tracked")}
    released = {entry["detectron2"]: f"{entry['module']}/{entry['leaf']}" for entry in oracle}
    assert released == {name: f"res_net50/~/{key}" for name, key in family_keys("haiku", BackboneSpec(50)).items()}


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.last_stage == 5], ids=str)
def test_depth_and_channels_are_read_from_the_tensors(spec):
    tensors = {name: torch.empty(shape, device="meta") for name, shape in backbone_shapes(spec).items()}
    found = spec_from_tensors(tensors)
    assert (found.depth, found.channels, found.num_groups) == (spec.depth, spec.channels, spec.num_groups)
    assert not spec.basic or found == spec


@pytest.mark.parametrize("lost", ["res4.1.conv1.weight", "stem.conv1.weight", "res2.0.conv2.weight", "res2.0.conv3.norm.bias"])
def test_the_backbone_is_recognised_in_spite_of_a_missing_tensor(lost):
    tensors = {name: torch.empty(shape, device="meta") for name, shape in backbone_shapes(published(50)).items() if name != lost}
    assert spec_from_tensors(tensors).depth == 50 and spec_from_tensors(tensors).channels == published(50).channels


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("res5.2.", "Cannot tell the depth from the tensors: 3, 4, 6, 2 blocks in res2..res5, three convolutions each"),
        ("stem.", "neither stem.conv1.weight nor its norm is there"),
        ("", "0, 0, 0, 0 blocks"),
    ],
)
def test_tensors_of_no_known_depth_are_refused(lost, message):
    shapes = backbone_shapes(published(50))
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items() if not name.startswith(lost)}
    with pytest.raises(ValueError, match=message):
        spec_from_tensors(tensors)


@pytest.mark.parametrize(("naming", "arrange"), [("sequential", list), ("staged", None)])
def test_other_arrangements_of_torchvisions_resnet_are_named_as_torch_names_them(naming, arrange):
    with torch.device("meta"):
        children = list(torchvision.models.resnet50().children())[:-1]
    if arrange is None:
        stages = {f"C{index - 2}": torch.nn.Sequential(*children[index]) for index in range(4, 8)}
        theirs = torch.nn.ModuleDict({"C1": torch.nn.Sequential(*children[:4]), **stages})
    else:
        theirs = torch.nn.Sequential(*children)
    shapes = backbone_shapes(published(50))
    assert {key: shapes[name] for name, key in family_keys(naming, published(50)).items()} == shapes_of(theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 51}, "depth 51; expected one of 18, 34"),
        ({"norm": "GN"}, "norm 'GN'"),
        ({"padding": "valid"}, "padding 'valid'"),
        ({"last_stage": 6}, "last_stage 6; expected one of 2, 3, 4, 5"),
        ({"depth": [50]}, "depth"),
    ],
)
def test_metadata_of_no_known_network_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        BackboneSpec.from_metadata({"depth": 50, "norm": "BN"} | change)


@pytest.mark.parametrize(("depth", "width", "plain"), [(50, 1, True), (50, 2, True), (18, 1, True), (18, 2, False), (200, 1, False)])
def test_plain_detectron2_suffices_except_for_depth_200_wide_basic_blocks_and_same_padding(depth, width, plain):
    assert published(depth, width_multiplier=width).is_plain is plain
    same = published(depth, width_multiplier=width, padding="same")
    assert not same.is_plain and same.has_config


@pytest.mark.parametrize("naming", NAMINGS)
def test_known_keys_hold_every_depth_and_width_once(naming):
    known = known_keys(naming)
    for depth in DEPTHS:
        assert all(known[key] == name for name, key in family_keys(naming, published(depth)).items())


def test_keys_of_one_module_share_a_line():
    assert grouped(["a.b.weight", "a.b.bias", "c.weight", "d"]) == ["a.b.{weight, bias}", "c.weight", "d"]
