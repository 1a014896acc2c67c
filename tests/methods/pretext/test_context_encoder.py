"""The context encoder sees nothing of the hole, is judged by the hole alone, and holes are where they are said to be."""

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.methods.pretext.context_encoder import HOLES, sample_hole
from tests.methods.test_contract import HELD, batch_of


@pytest.mark.parametrize("size", [16, 65, 224])
@pytest.mark.parametrize("kind", HOLES)
def test_holes_have_their_share_of_the_view(kind, size):
    shares = [sample_hole(np.random.default_rng(seed), size, kind).mean() for seed in range(50)]
    low, high = {"block": (1 / 80, 0.26), "center": (0.2, 0.3), "region": (0.19, 0.32)}[kind]
    assert low < min(shares) and max(shares) < high


def test_edges_of_holes_are_off_the_grid_of_cells():
    tops = {int(np.argmax(sample_hole(np.random.default_rng(seed), 224, "block").any(1))) % 32 for seed in range(200)}
    assert len(tops) > 20


def test_what_is_hidden_reaches_the_loss_only_as_the_truth(photos):
    model, batch = batch_of("ContextEncoder", photos, 2, **HELD)
    with d2.EventStorage(), torch.no_grad():
        before = model.embed(batch)
        for sample in batch:
            image = sample["views"][0]["image"]
            sample["views"][0]["image"] = torch.where(sample["hole"], 1 - image, image)
        after = model.embed(batch)
    assert torch.equal(before["prediction"], after["prediction"]) and torch.equal(before["mean"], after["mean"])
    assert not torch.equal(before["truth"], after["truth"])


def test_the_loss_is_zero_at_the_truth_and_gives_no_gradient_outside_the_hole(photos):
    model, batch = batch_of("ContextEncoder", photos, 2)
    with d2.EventStorage():
        found = model.embed(batch)
    exact = found | {"prediction": torch.where(found["hole"] > 0, found["truth"], found["prediction"])}
    assert model.criterion(exact)["loss_context_encoder"] == 0
    prediction = found["prediction"].detach().requires_grad_()
    model.criterion(found | {"prediction": prediction})["loss_context_encoder"].backward()
    hidden = (found["hole"] > 0).expand_as(prediction)
    assert not prediction.grad[~hidden].any() and prediction.grad[hidden].all()


def test_filling_in_the_mean_has_the_error_ratio_one(photos):
    model, batch = batch_of("ContextEncoder", photos, 2)
    with d2.EventStorage():
        found = model.embed(batch)
    metrics = model.metrics(found | {"prediction": found["mean"].expand_as(found["truth"])})
    assert metrics["error_ratio"] == pytest.approx(1) and 0 < metrics["hole"] < 0.3
