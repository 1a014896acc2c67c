"""DIM and AMDIM: levels, locations that come with the sample, and pictures that cannot be told apart."""

import math

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from tests.methods.test_contract import batch_of, build

TWO = {"MODEL__RESNETS__OUT_FEATURES": "('res4', 'res5')"}
LOCAL = {"DETCON__DIM__LOCAL_FEATURE": "res4", "DETCON__AMDIM__LOCAL_FEATURE": "res4"}


def embedded(model: torch.nn.Module, batch: list[dict]) -> dict[str, torch.Tensor]:
    with d2.EventStorage(), torch.no_grad():
        return model.embed(batch)


def test_levels_have_the_cells_of_their_maps(photos):
    model, batch = batch_of("AMDIM", photos, 4, **TWO, **LOCAL)
    found = embedded(model, batch)
    assert {name: value.shape[1] for name, value in found.items() if name.startswith("level")} == {
        f"level{level}_{view}": 1 if level == 1 else 4 for level in (1, 5, 7) for view in (1, 2)
    }
    assert model.heads["7"].shortcut.in_features == 2 * model.heads["5"].shortcut.in_features // 4
    dim, batch = batch_of("DIM", photos, 4, **TWO, **LOCAL)
    assert embedded(dim, batch)["local"].shape[:2] == (4, 16)


@pytest.mark.parametrize("method", ["DIM", "AMDIM"])
def test_pictures_that_are_equal_are_told_apart_by_chance_at_best(method, photos):
    _, model, samples, _ = build(method, photos)
    batch = [samples(np.full((80, 80, 3), 90, np.uint8), None, 0) | {"label": 0} for _ in range(4)]
    found = embedded(model, batch)
    # Borders of a map know where they are, but not whose they are: no location beats the same location of another image.
    metrics = model.metrics(found)
    assert metrics["accuracy"] <= 1e-6 and metrics["chance"] == pytest.approx(1 / (1 + 3 * 4))


def test_the_mode_chooses_the_estimator(photos):
    model, batch = batch_of("DIM", photos, 4, DETCON__DIM__MODE="jsd")
    found = embedded(model, batch) | {"source": torch.zeros(4, 16)}
    assert model.criterion(found)["loss_dim"] == pytest.approx(0, abs=1e-6)
    model.keys = build("DIM", photos)[0].DETCON.DIM
    assert model.criterion(found)["loss_dim"] == pytest.approx(math.log(1 + 3 * 4))


def test_the_loss_is_the_same_with_the_views_swapped(photos):
    model, batch = batch_of("AMDIM", photos, 4)
    found = embedded(model, batch)
    swapped = {name[:-1] + str(3 - int(name[-1])) if name.startswith("level") else name: value for name, value in found.items()}
    swapped["locations"] = found["locations"].flip(1)
    torch.testing.assert_close(model.criterion(swapped), model.criterion(found))


def test_the_sampled_location_is_the_source_and_large_scores_are_clipped(photos):
    model, batch = batch_of("AMDIM", photos, 2)
    found = embedded(model, batch) | {"locations": torch.tensor([[0.0, 0.99], [0.5, 0.3]])}
    assert torch.equal(model.source(found, "5", 1) * 4, found["level5_1"][[0, 1], [0, 2]])
    assert torch.equal(model.source(found, "5", 2) * 4, found["level5_2"][[0, 1], [3, 1]])
    large = {name: 1e4 * value if name.startswith("level") else value for name, value in found.items()}
    assert model.metrics(large)["clipped"] > 0.9 and model.criterion(large)["loss_amdim"] <= 3 * (40 + math.log(5))


def test_views_share_the_flip(photos):
    _, _, samples, _ = build("AMDIM", photos)
    flips = [[transform.flip for transform in samples.sample_geometry(position, 80, 90)] for position in range(20)]
    assert {tuple(pair) for pair in flips} == {(True, True), (False, False)}


def test_an_output_that_the_encoder_lacks_is_refused(photos):
    with pytest.raises(ValueError, match=r"DETCON\.AMDIM\.LOCAL_FEATURE is 'res3', but the backbone gives \['res5'\]"):
        build("AMDIM", photos, DETCON__AMDIM__LOCAL_FEATURE="res3")
