"""Mask prediction: targets follow crop and flip of the view, sum to the mask's area, and the figures know a guess from an answer."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.methods.pretext.mask_prediction import neighbours
from tests.methods.test_contract import batch_of, build

PLAIN = {f"DETCON__AUG__{name}_PROB": "(0.0, 0.0)" for name in ("JITTER", "GRAY", "BLUR", "SOLARIZE")}
NEIGHBOURS = {"DETCON__MASK_PREDICTION__TARGET": "neighbours"}
LEVELS = {"MODEL__RESNETS__OUT_FEATURES": "('res2', 'res3', 'res4', 'res5')"}


def blobs(seed: int) -> np.ndarray:
    """uint16 (96, 128): background 0, three overlapping rectangles 1..3, and a corner without a region."""
    rng, found = np.random.default_rng(seed), np.zeros((96, 128), np.uint16)
    for region in range(1, 4):
        y, x = rng.integers(0, 60), rng.integers(0, 90)
        found[y : y + rng.integers(20, 40), x : x + rng.integers(20, 40)] = region
    found[:10, :10] = NO_REGION
    return found


def test_the_target_is_the_foreground_that_the_view_shows(photos):
    _, _, samples, _ = build("MaskPrediction", photos, **PLAIN, **LEVELS)
    flips = set()
    for position in range(24):
        regions = blobs(position)
        painted = np.repeat(np.where((regions > 0) & (regions != NO_REGION), 255, 0).astype(np.uint8)[:, :, None], 3, axis=2)
        (view,) = samples(painted, regions, position)["views"]
        # A crop or a flip of the one without the other would be off by whole cells; pixels at an edge are a larger part of small ones.
        for stride, interpolation in ((4, 0.3), (8, 0.15), (16, 0.1), (32, 0.06)):
            target = view[f"target_res{stride.bit_length() - 1}"]
            shown = F.adaptive_avg_pool2d(view["image"][:1], target.shape[1:])
            assert target.shape == (1, *[-(-view["image"].shape[1] // stride)] * 2)
            assert (target - shown).abs().max() < interpolation, stride
        flips.add(view["flip"])
    assert flips == {False, True}


def test_shares_sum_to_the_area_of_the_mask(photos):
    whole = {"DETCON__VIEWS__CROP_AREA": "(1.0, 1.0)", "DETCON__VIEWS__CROP_ASPECT": "(1.0, 1.0)", "DETCON__VIEWS__SIZE": 65}
    _, _, samples, _ = build("MaskPrediction", photos, **PLAIN, **whole)
    regions = np.kron(blobs(0)[:65, :65], np.ones((1, 1), np.uint16))
    (view,) = samples(np.zeros((65, 65, 3), np.uint8), regions, 0)["views"]
    area = ((regions > 0) & (regions != NO_REGION)).mean()
    assert view["target_res5"].shape == (1, 3, 3) and view["target_res5"].mean().item() == pytest.approx(area, abs=1e-5)


def test_neighbours_share_a_region_or_not_and_edges_have_none():
    cells = torch.tensor([[1, 1, 2], [1, 3, 2], [NO_REGION, 3, 3]], dtype=torch.int32)
    right, below = neighbours(cells).tolist()
    assert right == [[1, 0, -1], [0, 0, -1], [-1, 1, -1]]
    assert below == [[1, 0, 1], [-1, 1, 0], [-1, -1, -1]]


@pytest.mark.parametrize("overrides", [{}, NEIGHBOURS, NEIGHBOURS | LEVELS], ids=["foreground", "neighbours", "levels"])
def test_the_loss_is_the_weighted_cross_entropy_of_known_cells(overrides, photos):
    model, batch = batch_of("MaskPrediction", photos, 4, **overrides)
    with d2.EventStorage():
        found = model.embed(batch)
    assert len(model.heads) == (4 if LEVELS.items() <= overrides.items() else 1)
    expected = []
    for name in model.heads:
        logits, targets = found[f"logits_{name}"].double(), found[f"targets_{name}"].double()
        positive = logits.sigmoid()
        losses = -2 * targets * positive.log() - (1 - targets) * (1 - positive).log()
        expected.append(losses[targets >= 0].sum() / targets.numel())
        assert (targets >= 0).all() == (not overrides)
    expected = torch.stack(expected).mean()
    torch.testing.assert_close(model.criterion(found)["loss_mask_prediction"].double(), expected, rtol=1e-4, atol=1e-6)


def test_neighbours_train_through_every_parameter(photos):
    model, batch = batch_of("MaskPrediction", photos, 4, **NEIGHBOURS, **LEVELS)
    with d2.EventStorage():
        model.criterion(model.embed(batch))["loss_mask_prediction"].backward()
    for name, parameter in model.named_parameters():
        assert name.startswith("probe.") or parameter.grad.any(), name


def test_figures_of_an_answer_and_of_a_guess(photos):
    _, model, _, _ = build("MaskPrediction", photos)
    targets = torch.zeros(1, 1, 4, 4)
    targets[0, 0, 1:3, 2:4] = 1  # half of it in the central 2 x 2 cells
    found = model.metrics({"logits_res5": targets - 0.5, "targets_res5": targets, "features": torch.ones(1, 2)})
    assert (found["accuracy"], found["iou"], found["chance"]) == (1, 1, 0.75) and found["iou_center"] == pytest.approx(2 / 6)
    unknown = model.metrics({"logits_res5": targets, "targets_res5": targets - 1, "features": torch.ones(1, 2)})
    assert unknown["chance"] == 1 and unknown["iou"] == 0


def test_regions_without_a_foreground_are_warned_about_and_learned_regions_refused(photos):
    cfg, model, _, _ = build("MaskPrediction", photos)
    assert "label maps of grid size=2, whose region 0 is no background" in model.doubts(cfg, 12)[0]
    cfg.merge_from_list(["DETCON.MASK_PREDICTION.TARGET", "neighbours", "DETCON.MASKS.SOURCE", "kmeans"])
    assert [key for fulfilled, key, *_ in model.check_config(cfg) if not fulfilled] == ["DETCON.MASKS.SOURCE"]
    cfg.DETCON.MASKS.SOURCE = "grid"
    assert model.doubts(cfg, 12) == []
