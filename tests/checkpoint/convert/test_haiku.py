"""Checkpoints of the released JAX code: every container, the exact arrays, the oracle's activations, the released key inventories."""

import json
import pickle

import numpy as np
import pytest
import torch
import yaml

from detcon_d2 import d2
from detcon_d2.checkpoint import DetConCheckpointer, check_weights, describe_missing, load_checkpoint_file
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.convert.haiku import from_haiku
from detcon_d2.checkpoint.convert.key_maps import family_keys
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.checkpoint.convert.spec import BackboneSpec
from detcon_d2.checkpoint.convert.styles import match_file
from detcon_d2.engine.setup import load_config
from tests.checkpoint.released import LAYOUTS, WITH_TARGET, backbone_tensors, haiku_trees, write_npy
from tests.modeling.test_same_padding import STAGES, haiku_tiny, normalised

NARROW = BackboneSpec(50, stem_out_channels=8, res2_out_channels=16, width_per_group=4)
ORACLES = ("haiku_tiny", "haiku_tiny_flatdict", "haiku_tiny_with_heads")


@pytest.fixture(scope="module")
def networks():
    """Online and target tensors of a narrow ResNet-50."""
    return backbone_tensors(NARROW, 0), backbone_tensors(NARROW, 1)


def written(path, layout, networks):
    trees = [tree for tensors in networks for tree in haiku_trees(tensors)]
    content = LAYOUTS[layout](*trees)
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
        return path
    return write_npy(path, content)


def assert_equal(found, tensors):
    floats = {name: value for name, value in found.tensors.items() if value.is_floating_point()}
    torch.testing.assert_close(floats, tensors, rtol=0, atol=0)
    assert len(found.tensors) == len(tensors) + len(tensors) // 5
    assert all(value.is_contiguous() for value in found.tensors.values())


@pytest.mark.parametrize("suffix", ["npy", "pkl"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_container_gives_the_online_and_the_target_network(networks, tmp_path, layout, suffix):
    path = written(tmp_path / f"in.{suffix}", layout, networks)
    found = read_checkpoint(path)
    assert found.style == "haiku" and found.spec.depth == 50 and found.spec.padding == "same"
    assert_equal(found, networks[0])
    if layout in WITH_TARGET:
        assert_equal(read_checkpoint(path, branch="ema"), networks[1])
    else:
        with pytest.raises(ValueError, match="has no EMA encoder that style haiku knows"):
            read_checkpoint(path, branch="ema")


@pytest.mark.parametrize("depth", [18, 34, 101, 200])
def test_other_depths_and_widths_follow_the_same_scheme(tmp_path, depth):
    narrow = {"width_per_group": 4} if depth >= 50 else {}
    spec = BackboneSpec(depth, width_multiplier=2, stem_out_channels=8, res2_out_channels=16 if depth >= 50 else 8, **narrow)
    tensors = backbone_tensors(spec)
    found = read_checkpoint(write_npy(tmp_path / "in.npy", dict(zip(("params", "state"), haiku_trees(tensors, f"res_net{depth}")))))
    assert found.spec.depth == depth and found.spec.channels["STEM_OUT_CHANNELS"] == 16
    assert_equal(found, tensors)


@pytest.mark.parametrize(("module", "leaf"), [
    ("block_group_2/~/block_3/~/conv_1", "w"), ("initial_batchnorm", "scale"),
    ("block_group_1/~/block_0/~/shortcut_batchnorm/~/var_ema", "average"),
])  # fmt: skip
def test_a_missing_array_is_named(networks, tmp_path, module, leaf):
    params, state = haiku_trees(networks[0])
    del (state if "_ema" in module else params)[f"res_net50/~/{module}"][leaf]
    with pytest.raises(ValueError, match=rf"missing: \S*{module}/{leaf}"):
        read_checkpoint(write_npy(tmp_path / "in.npy", {"params": params, "state": state}))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("res_net50/~/block_group_0/~/block_9/~/conv_0", "10, 4, 6, 3 blocks"),
        ("res_net50/~/final_batchnorm", "unexpected: final_batchnorm/w"),
        ("surprise/linear", "unexpected outside the encoder: surprise/linear/w"),
    ],
)
def test_an_unknown_array_is_named(networks, tmp_path, module, message):
    params, state = haiku_trees(networks[0])
    params[module] = {"w": np.ones((1, 1, 1, 1), np.float32)}
    with pytest.raises(ValueError, match=message):
        read_checkpoint(write_npy(tmp_path / "in.npy", {"params": params, "state": state}))


def test_what_the_file_does_not_report_is_printed_and_written(networks, tmp_path):
    path = written(tmp_path / "in.npy", "online", networks)
    lines = convert(path, tmp_path / "w.pkl", check=True)
    parts = ("COCO pretraining took them in [0, 1]", "--statistics unit", "about 20 %", "features before and after conversion agree")
    assert all(part in "\n".join(lines) for part in parts)
    config = yaml.safe_load((tmp_path / "w.yaml").read_text())
    assert config["DETCON"]["BACKBONE"]["PADDING"] == "same" and config["MODEL"]["PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    convert(path, tmp_path / "unit.pkl", facts={"pixel_mean": [0.0] * 3, "pixel_std": [255.0] * 3}, check=True)
    model = yaml.safe_load((tmp_path / "unit.yaml").read_text())["MODEL"]
    assert (model["PIXEL_MEAN"], model["PIXEL_STD"]) == ([0.0] * 3, [255.0] * 3)


def test_torchvision_gets_a_warning_and_is_compared_where_the_paddings_agree(tmp_path):
    spec = BackboneSpec(18, res2_out_channels=64)
    path = write_npy(tmp_path / "in.npy", haiku_trees(backbone_tensors(spec), "res_net18"))
    lines = convert(path, tmp_path / "w.pth", target="torchvision", check=True)
    assert any(line.startswith("Warning: trained with SAME padding, which torchvision does not have") for line in lines)
    assert any("features before and after conversion agree" in line for line in lines)
    assert json.loads((tmp_path / "w.json").read_text())["padding"] == "same"


def oracle_tensors(path):
    """The tensors of an oracle's file. Its network has no depth that a config can name."""
    data = load_checkpoint_file(path)
    with pytest.raises(ValueError, match="Cannot tell the depth from the tensors: 2, 1, 2, 1 blocks"):
        read_checkpoint(path)
    match = match_file(data, None, "online")
    assert match.style.name == "haiku" and not match.unknown
    return {name: from_haiku(name, torch.as_tensor(value)) for name, value in match.backbone.items()}


@pytest.mark.parametrize("name", ORACLES)
def test_the_oracles_files_give_the_fixtures_weights(fixtures_dir, shared_dir, name):
    with np.load(fixtures_dir / "haiku_tiny.npz") as fixture:
        expected = {key.removeprefix("weights/"): torch.from_numpy(fixture[key]) for key in fixture.files if key.startswith("weights/")}
    torch.testing.assert_close(oracle_tensors(shared_dir / "oracles" / f"{name}.npy"), expected, rtol=0, atol=0)


@pytest.mark.parametrize("padding", ["same", "torchpad"])
@torch.no_grad()
def test_the_oracles_weights_give_its_activations(shared_dir, padding):
    tensors = oracle_tensors(shared_dir / "oracles" / "haiku_tiny.npy")
    network = haiku_tiny({f"weights/{key}": value.contiguous().numpy() for key, value in tensors.items()}, padding)
    with np.load(shared_dir / "oracles" / "haiku_tiny_activations.npz") as oracle:
        for size in ("64x96", "65x97", "72x110"):
            features = network(normalised(oracle[f"{size}/image_uint8_nhwc"]).float())
            for stage in STAGES:
                expected = torch.from_numpy(oracle[f"{size}/{padding}/{stage}"]).permute(0, 3, 1, 2)
                torch.testing.assert_close(features[stage], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("depth", [50, 200])
def test_the_released_inventories_convert_with_nothing_left_over(shared_dir, tmp_path, depth):
    inventory = json.loads((shared_dir / "oracles" / f"keys_detcon_b_resnet{depth}.json").read_text())
    rng = np.random.default_rng(0)

    def draw(leaf, shape, dtype):
        # The deep one a quarter as wide: what it adds is names.
        shape = [size // 4 if depth == 200 and size >= 64 else size for size in shape]
        if leaf == "w":
            return rng.standard_normal(shape, dtype=np.float32) * np.float32((2 / max(np.prod(shape[:-1]), 1)) ** 0.5)
        # Small scales keep the sum of sixty-six blocks in range.
        return np.full(shape, 0.2 if leaf == "scale" else 1, dtype)

    trees = {
        name: {module: {leaf: draw(leaf, *kind) for leaf, kind in leaves.items()} for module, leaves in tree.items()}
        for name, tree in inventory.items()
    }
    source = write_npy(tmp_path / "in.npy", trees)
    lines = convert(source, tmp_path / "w.pth", check=True)
    assert any(line.startswith("features before and after conversion agree") for line in lines)
    found, keys = read_checkpoint(source), {f"{m}/{leaf}" for tree in trees.values() for m, leaves in tree.items() for leaf in leaves}
    used = {f"res_net{depth}/~/{key}" for key in family_keys("haiku", found.spec).values()}
    assert found.spec.depth == depth and used | set(found.dropped) == keys and not used & set(found.dropped)
    assert set(found.dropped.values()) == {"classifier", "projection head", "prediction head", "bookkeeping"}
    kernel = trees["params"][f"res_net{depth}/~/block_group_3/~/block_2/~/conv_1"]["w"]
    assert np.array_equal(found.tensors["res5.2.conv2.weight"].numpy(), kernel.transpose(3, 2, 0, 1))


_SMALL = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN", "MODEL.FPN.OUT_CHANNELS", "16"]
_SMALL += ["MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8"]


@pytest.mark.parametrize("depth", [50, 200])
def test_a_released_network_predicts_in_mask_rcnn(depth, tmp_path):
    # A quarter of the channels; the full widths are those of the conversion tests.
    spec = BackboneSpec(depth, stem_out_channels=16, res2_out_channels=64, width_per_group=16)
    params, state = haiku_trees(backbone_tensors(spec), root=f"res_net{depth}")
    source = write_npy(tmp_path / "released.npy", {"params": params, "state": state})
    weights = tmp_path / "weights.pkl"
    convert(source, weights)

    cfg = load_config(str(weights.with_suffix(".yaml")), _SMALL)
    assert (cfg.MODEL.WEIGHTS, cfg.DETCON.BACKBONE.PADDING) == (str(weights), "same")
    assert "The config agrees" in check_weights(cfg, cfg.MODEL.WEIGHTS)[0]
    model = d2.build_model(cfg)
    checkpointer = DetConCheckpointer(model)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    assert describe_missing(checkpointer.missing_keys) == "newly initialised, as expected: FPN, RPN, box head, mask head"
    loaded = model.backbone.bottom_up.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in backbone_tensors(spec).items())

    image = torch.randint(0, 256, (3, 70, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        instances = model.eval()([{"image": image, "height": 140, "width": 192}])[0]["instances"]
    assert instances.image_size == (140, 192) and torch.isfinite(instances.scores).all()
