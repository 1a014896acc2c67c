"""Damaged jigsaws are jigsaws whose tiles are grey and of which the model does not see one, with the colours as targets."""

import copy
import math

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.modeling.color_bins import AB_BINS
from tests.data.test_mapper import assert_equal_samples
from tests.methods.pretext.test_colorization import same_lightness
from tests.methods.test_contract import batch_of, build

PLAIN = {f"DETCON__AUG__{name}_PROB": "(0.0, 0.0)" for name in ("JITTER", "GRAY", "BLUR", "SOLARIZE")}
PLAIN |= {"DETCON__LOG_PERIOD": 1000}
ONLINE = ("logits", "logits_shown", "logits_missing")


def embeddings_of(model: torch.nn.Module, batch: list[dict]) -> dict[str, torch.Tensor]:
    with d2.EventStorage(), torch.no_grad():
        return model.embed(batch)


def test_samples_are_those_of_jigsaw_plus_with_a_missing_tile_that_is_not_foreign(photos):
    plus = {"DETCON__JIGSAW__FOREIGN_TILES": 2} | PLAIN
    _, _, jigsaw, _ = build("Jigsaw", photos, **plus)
    _, _, samples, _ = build("DamagedJigsaw", photos, **plus)
    image, other = np.random.default_rng(0).integers(0, 256, (2, 120, 120, 3)).astype(np.uint8)
    places = []
    for position in range(300):
        if position < 5:
            found = samples(image, None, position, other)
            missing = found.pop("missing")
            assert_equal_samples([found], [jigsaw(image, None, position, other)])
            assert missing.nonzero().tolist() == [[samples.sample_puzzle(position)[2][-1]]]
        _, count, order = samples.sample_puzzle(position)
        assert order[-1] not in order[:count]
        places.append(order[-1])
    counts = np.bincount(places, minlength=9)
    assert np.square(counts - 300 / 9).sum() / (300 / 9) < 8 + 3 * math.sqrt(16)  # chi-squared


@pytest.mark.parametrize("normalize", ["tile", "none"])
def test_nothing_of_the_missing_tile_is_seen_and_it_is_the_target(photos, normalize):
    model, batch = batch_of("DamagedJigsaw", photos, 3, DETCON__PATCHES__NORMALIZE=normalize, **PLAIN)
    changed = copy.deepcopy(batch)
    for sample in changed:
        view = sample["views"][int(sample["missing"].nonzero())]
        view["image"] = torch.rand(view["image"].shape, generator=torch.Generator().manual_seed(0))
    one, other = embeddings_of(model, batch), embeddings_of(model, changed)
    assert all(torch.equal(one[name], other[name]) for name in ONLINE)
    missing = torch.stack([sample["missing"] for sample in batch])
    assert torch.equal(one["target_missing"][:, 0], one["target_shown"][missing])
    assert not torch.equal(one["target_missing"], other["target_missing"])
    assert torch.equal(one["target_shown"][~missing], other["target_shown"][~missing])
    assert not (one["tiles_shown"] & missing).any() and one["tiles_shown"].sum() == 8 * 3
    for index in range(3):  # any other tile is seen
        sample = changed[index] = copy.deepcopy(batch[index])
        sample["views"][int((~sample["missing"]).nonzero()[0])]["image"].fill_(0.5)
    seen = embeddings_of(model, changed)
    assert all((seen[name] != one[name]).flatten(1).any(1).all() for name in ONLINE)


def test_the_encoder_sees_lightness_alone_and_grey_images_have_no_colours_to_learn(photos):
    _, model, samples, _ = build("DamagedJigsaw", photos, DETCON__PATCHES__NORMALIZE="none", **PLAIN)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].unflatten(0, (2, 9)) * model.pixel_std))
    found = embeddings_of(model, [samples(np.kron(picture, np.ones((2, 2, 1), np.uint8)), None, 0) for picture in same_lightness(0)])
    colourful, grey = seen[0]
    # Rounding to 8 bits differs.
    assert (colourful - grey).abs().max() < 2 and found["tiles_missing"].flatten().tolist() == [True, False]
    assert found["tiles_shown"].sum(1).tolist() == [8, 0]
    alone = {name: value[:1] for name, value in found.items()}
    for name in ("shown", "missing"):
        assert model.entropies(found, name)[1] == 0 and torch.equal(model.entropies(found, name)[:1], model.entropies(alone, name))
    nothing = {name: value[1:] for name, value in found.items()}
    assert all(math.isfinite(value) for value in model.metrics(nothing).values())
    assert model.criterion(nothing)["loss_shown"] == model.criterion(nothing)["loss_missing"] == 0


def test_a_uniform_guess_has_the_weights_as_losses_and_the_prior_has_no_gain(photos):
    model, batch = batch_of("DamagedJigsaw", photos, 4, DETCON__DAMAGED_JIGSAW__WEIGHTS="(1.0, 2.0, 0.5)", **PLAIN)
    found = embeddings_of(model, batch)
    guess = found | {name: torch.zeros_like(found[name]) for name in ONLINE}
    losses = model.criterion(guess)
    assert [float(losses[f"loss_{name}"]) for name in ("jigsaw", "shown", "missing")] == pytest.approx([1, 2, 0.5], rel=1e-5)
    for name in ("shown", "missing"):
        prior = found[f"target_{name}"][found[f"tiles_{name}"]].mean((0, 2, 3)).clamp(min=1e-20).log()
        guess[f"logits_{name}"] = prior.view(1, 1, len(AB_BINS), 1, 1).expand_as(found[f"logits_{name}"])
        sure = found | {f"logits_{name}": found[f"target_{name}"].clamp(min=1e-20).log()}
        assert model.metrics(guess)[f"gain_{name}"] == pytest.approx(0, abs=1e-4) and model.metrics(sure)[f"gain_{name}"] > 0.1
    assert {"accuracy", "chance", "right_places"} <= model.metrics(guess).keys()


@pytest.mark.parametrize(
    ("key", "value"), [("DAMAGED_JIGSAW.WEIGHTS", "(1.0, 1.0)"), ("DAMAGED_JIGSAW.WEIGHTS", "(1.0, 1.0, 0.0)"), ("PATCHES.COLOR", "drop")]
)
def test_values_out_of_range_are_refused(key, value, photos):
    cfg, model, _, _ = build("DamagedJigsaw", photos)
    cfg.merge_from_list([f"DETCON.{key}", value])
    assert [name for fulfilled, name, *_ in model.check_config(cfg) if not fulfilled] == [f"DETCON.{key}"]
