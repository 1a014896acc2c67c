"""VINCE is MoCo with another frame of the clip, and nothing else."""

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.losses import info_nce_loss
from tests.methods.test_contract import batch_of, build

PLAIN = {f"DETCON__AUG__{name}_PROB": "(0.0, 0.0)" for name in ("JITTER", "GRAY", "BLUR", "SOLARIZE")}


def test_each_view_is_of_a_frame_of_its_own_in_both_orders(photos):
    _, _, samples, _ = build("VINCE", photos, **PLAIN)
    first, second = (np.full((70, 90, 3), value, np.uint8) for value in (51, 204))
    values = [[float(view["image"].mean()) for view in samples(first, None, k, frames=[first, second])["views"]] for k in range(40)]
    assert {tuple(round(value, 3) for value in pair) for pair in values} == {(0.2, 0.8), (0.8, 0.2)}


def test_on_equal_frames_it_is_moco(photos):
    _, _, vince, _ = build("VINCE", photos)
    _, _, moco, _ = build("MoCo", photos)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    for position in range(5):
        found, expected = vince(image, None, position, frames=[image, image.copy()]), moco(image, None, position)
        assert found["shuffle"] == expected["shuffle"]
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(found["views"], expected["views"], strict=True))


def test_loss_accuracy_and_chance_are_those_of_the_queue(photos):
    model, batch = batch_of("VINCE", photos, 4)
    with d2.EventStorage():
        found = model.embed(batch)
    queue = model.memory["queue"].features
    loss = info_nce_loss(found["query"], found["key"], queue, temperature=model.temperature)
    assert torch.equal(model.criterion(found)["loss_vince"], loss)
    metrics = model.metrics(found | {"query": found["key"]})
    assert metrics["accuracy"] == 1 and metrics["chance"] == pytest.approx(1 / 33)
    assert model.metrics(found | {"query": queue[:, :4].T})["accuracy"] == 0


@pytest.mark.parametrize("gaps", ["(0, 3)", "(3, 2)", "(1,)"])
def test_gaps_out_of_range_are_refused(gaps, photos):
    cfg, model, _, _ = build("VINCE", photos)
    cfg.merge_from_list(["DETCON.VINCE.GAPS", gaps])
    refused = [(key, expected) for fulfilled, key, _, expected in model.check_config(cfg) if not fulfilled]
    assert refused == [("DETCON.VINCE.GAPS", refused[0][1])] and "1 <= least <= largest" in refused[0][1]
