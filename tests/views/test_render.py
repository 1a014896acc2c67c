"""The fast and the device's form of a sample are the exact one's, with the same draws."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from detcon_d2 import d2
from detcon_d2.data import load_training_records
from detcon_d2.engine.visualize import collect_rows
from detcon_d2.modeling.backbone import feature_strides
from detcon_d2.views.photometric_device import apply_photometric
from tests.data.samples import mapper_of
from tests.data.test_loader import batches
from tests.data.test_mapper import assert_equal_samples

# DetCon_B's augmentation, and DetCon_S's with a little of all in both views.
_PROBABILITIES = {"JITTER_PROB": (0.8, 0.8), "GRAY_PROB": (0.2, 0.2), "BLUR_PROB": (1.0, 0.1), "SOLARIZE_PROB": (0.0, 0.2)}
_STRONG = {"OPERATORS": "torchvision", "BRIGHTNESS": 0.8, "CONTRAST": 0.8, "SATURATION": 0.8, "HUE": 0.2}
B, S = (
    tuple(x for key, value in keys.items() for x in (f"DETCON.AUG.{key}", value)) for keys in (_PROBABILITIES, _PROBABILITIES | _STRONG)
)
FAST, DEVICE = ("DETCON.AUG.MODE", "fast"), ("DETCON.AUG.WHERE", "device")
SIZE = ("DETCON.VIEWS.SIZE", 224)


@pytest.fixture
def photo_set(empty_set):
    """Two photographs as JPEGs, with regions."""
    for number, photo in enumerate((skimage.data.astronaut(), skimage.data.coffee())):
        y, x = np.mgrid[: photo.shape[0], : photo.shape[1]] // 60
        empty_set.add(f"{number}.jpg", Image.fromarray(photo), (y * 12 + x).astype(np.uint16), quality=90)
    return empty_set


def samples(cfg: "d2.CfgNode", count: int) -> list[dict]:
    mapper, records = mapper_of(cfg), load_training_records(cfg)
    return [mapper(records[position % len(records)], position) for position in range(count)]


@pytest.mark.parametrize("augmentation", [B, S], ids=["dm_pix", "torchvision"])
def test_fast_views_are_the_exact_ones_up_to_rounding(photo_set, make_cfg, augmentation):
    exact, fast = (samples(make_cfg(photo_set, *SIZE, *augmentation, *opts), 24) for opts in ((), FAST))
    differences = []
    for one, other in zip(exact, fast, strict=True):
        for a, b in zip(one["views"], other["views"], strict=True):
            assert b["image"].dtype == torch.uint8 and b["image"].shape == (3, 224, 224) and b["image"].is_contiguous()
            assert b.keys() == {"image", "cells", "regions", "box", "flip", "draws"}
            assert torch.equal(a["box"], b["box"]) and a["flip"] == b["flip"] and torch.equal(a["draws"], b["draws"])
            assert b["cells"].dtype == torch.int32
            assert torch.equal(a["cells"], b["cells"])
            differences.append((b["image"].float() - a["image"] * 255).abs().mean().item())
        assert {key: value for key, value in one.items() if key != "views"} == {k: v for k, v in other.items() if k != "views"}
    assert np.mean(differences) < 0.8 and np.max(differences) < 4


@pytest.mark.parametrize("augmentation", [B, S], ids=["dm_pix", "torchvision"])
def test_exact_views_finished_on_the_device_are_those_of_the_worker(photo_set, make_cfg, augmentation):
    worker, device = (samples(make_cfg(photo_set, *SIZE, *augmentation, *opts), 16) for opts in ((), DEVICE))
    for i in range(2):
        mine, theirs = ([sample["views"][i] for sample in part] for part in (worker, device))
        finished = apply_photometric(torch.stack([view["image"] for view in theirs]), [view["photometric"] for view in theirs])
        torch.testing.assert_close(finished, torch.stack([view["image"] for view in mine]), atol=1e-5, rtol=0)
        assert all(torch.equal(a["cells"], b["cells"]) for a, b in zip(mine, theirs))


def test_fast_views_finished_on_the_device_differ_by_the_resize_alone(photo_set, make_cfg):
    exact, device = (samples(make_cfg(photo_set, *SIZE, *B, *opts), 16) for opts in ((), FAST + DEVICE))
    for i in range(2):
        theirs = [sample["views"][i] for sample in device]
        images = torch.stack([view["image"] for view in theirs])
        assert images.dtype == torch.uint8 and "cells" in theirs[0]
        expected = torch.stack([sample["views"][i]["image"] for sample in exact])
        assert (apply_photometric(images, [view["photometric"] for view in theirs]) - expected).abs().mean() * 255 < 0.6


@pytest.mark.parametrize("opts", [FAST, DEVICE, FAST + DEVICE], ids=" ".join)
def test_workers_and_a_resume_change_nothing(painted_set, make_cfg, opts):
    cfg = make_cfg(painted_set, *B, *opts)
    expected = batches(cfg, 5)
    assert_equal_samples(batches(cfg, 2, start_iteration=3), expected[3:])
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_equal_samples(batches(cfg, 5), expected)


@pytest.mark.parametrize("key, value", [("MODE", "quick"), ("WHERE", "gpu")])
def test_unknown_choices_are_refused(make_cfg, key, value):
    with pytest.raises(ValueError, match=rf"DETCON\.AUG\.{key} is '{value}'; expected '"):
        mapper_of(make_cfg(None, f"DETCON.AUG.{key}", value))


@pytest.mark.parametrize(
    "backbone, feature, dilation, size",
    [
        ("build_detcon_resnet_backbone", "res5", 1, 224),
        ("build_detcon_resnet_backbone", "res5", 2, 224),
        ("build_resnet_backbone", "res4", 1, 100),
        ("build_resnet_backbone", "res2", 1, 65),
        ("build_resnet_fpn_backbone", "p5", 1, 224),
        ("build_detcon_resnet_fpn_backbone", "p3", 1, 96),
        ("build_detcon_resnet_fpn_backbone", "p6", 1, 128),
    ],
)
def test_the_cells_are_those_of_the_features(make_cfg, backbone, feature, dilation, size):
    cfg = make_cfg(None, "DETCON.IN_FEATURE", feature, "DETCON.VIEWS.SIZE", size, "MODEL.BACKBONE.NAME", backbone)
    pyramid = "fpn" in backbone
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"] if pyramid else [feature]
    cfg.MODEL.FPN.IN_FEATURES = cfg.MODEL.RESNETS.OUT_FEATURES if pyramid else []
    cfg.MODEL.RESNETS.RES5_DILATION = dilation
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    features = d2.build_backbone(cfg).to("cpu")(torch.zeros(1, 3, size, size))[feature]
    samples = mapper_of(cfg, feature_strides(cfg)[cfg.DETCON.IN_FEATURE]).samples
    view = samples(np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint16), 0)["views"][0]
    assert view["cells"].shape == features.shape[2:]


def test_a_sheet_shows_regions_and_colours_wherever_they_are_made(painted_set, make_cfg):
    (row,) = collect_rows(make_cfg(painted_set, *B, *FAST, *DEVICE), 1)
    (expected,) = collect_rows(make_cfg(painted_set, *B), 1)
    assert_equal_samples(row.sample, expected.sample)
