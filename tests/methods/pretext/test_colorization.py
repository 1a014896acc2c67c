"""Colorization: the encoder sees no colour, grey images do not count, and cross-channel prediction sees no lightness."""

import math

import numpy as np
import pytest
import skimage.color
import torch

from detcon_d2 import d2
from detcon_d2.modeling.color_bins import AB_BINS
from tests.methods.test_contract import batch_of, build

PLAIN = {f"DETCON__AUG__{name}_PROB": "(0.0, 0.0)" for name in ("JITTER", "GRAY", "BLUR", "SOLARIZE")}
ONE = {"DETCON__COLORIZATION__DIRECTIONS": "('L->ab',)"}
BOTH = {"DETCON__COLORIZATION__DIRECTIONS": "('L->ab', 'ab->L')"}


def embeddings_of(model: torch.nn.Module, samples: object, pictures: list[np.ndarray]) -> dict[str, torch.Tensor]:
    with d2.EventStorage(), torch.no_grad():
        return model.embed([samples(picture, None, 0) | {"label": 0} for picture in pictures])


def same_lightness(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures of equal lightness, up to rounding, one of them colourful."""
    rng = np.random.default_rng(seed)
    lightness, a, b = (np.kron(rng.uniform(*bounds, (8, 8)), np.ones((8, 8))) for bounds in ((55, 65), (-18, 18), (-18, 18)))
    lab = np.stack([lightness, a, b], axis=2)
    grey = lab * (1, 0, 0)
    return tuple((skimage.color.lab2rgb(picture) * 255).round().astype(np.uint8) for picture in (lab, grey))


def test_the_input_is_lightness_alone(photos):
    _, model, samples, _ = build("Colorization", photos, **PLAIN, **ONE)
    colourful, grey = same_lightness(0)
    batch = [samples(picture, None, 0) for picture in (colourful, grey)]
    with d2.EventStorage():
        lab = model.lab_of(batch)
    one, other = model.input_of("ab", lab) * model.pixel_std + model.pixel_mean
    # The cheat: a part of the colour in the input. Lightness differs by the rounding of 8 bits alone, colour by much more.
    assert (one - other).abs().max() < 2 and (lab[0, 1:] - lab[1, 1:]).abs().mean() > 5
    torch.testing.assert_close(one[0], one[1], rtol=0, atol=1e-3)
    torch.testing.assert_close(one[0], one[2], rtol=0, atol=1e-3)
    shown = batch[0]["views"][0]["image"].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(one[0].numpy(), 2.55 * skimage.color.rgb2lab(shown)[..., 0], atol=0.1)


def test_the_other_direction_sees_colour_alone_and_all_of_it(photos):
    _, model, samples, _ = build("Colorization", photos, **PLAIN, **BOTH)
    batch = [samples(same_lightness(1)[0], None, 0)]
    with d2.EventStorage():
        lab = model.lab_of(batch)
    brighter = lab + torch.tensor([20.0, 0, 0]).view(1, 3, 1, 1)
    seen = model.input_of("l", lab)
    assert torch.equal(seen, model.input_of("l", brighter))
    pixels = (seen * model.pixel_std + model.pixel_mean - model.pixel_mean) / 2.55
    torch.testing.assert_close(pixels[:, :2], lab[:, 1:], rtol=0, atol=1e-3)


def test_one_direction_of_both_is_colorization(photos):
    one, batch = batch_of("Colorization", photos, 4, **PLAIN, **ONE)
    both, _ = batch_of("Colorization", photos, 4, **PLAIN, **BOTH)
    one.load_state_dict({name: value for name, value in both.state_dict().items() if not name.startswith("heads.l.")})
    with d2.EventStorage():
        a, b = one.embed(batch), both.embed(batch)
    assert a.keys() == {"logits_ab", "target_ab", "features", "colored"} and one.online_keys == ("logits_ab",)
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    losses = [model.criterion(found)["loss_colorization"] for model, found in ((one, a), (both, b))]
    alone = both._entropies(b, "l")[b["colored"]].sum() / b["target_l"][:, 0].numel()
    torch.testing.assert_close(losses[1], (losses[0] + alone) / 2)


def test_grey_images_do_not_count_and_nothing_is_nan_without_colour(photos):
    _, model, samples, _ = build("Colorization", photos, **PLAIN, **ONE)
    colourful, grey = same_lightness(2)
    found = embeddings_of(model, samples, [grey, colourful])
    assert found["colored"].tolist() == [False, True]
    alone = {name: value[1:] for name, value in found.items()}
    torch.testing.assert_close(2 * model.criterion(found)["loss_colorization"], model.criterion(alone)["loss_colorization"])
    a, b = model.metrics(found), model.metrics(alone)
    assert a["gray_images"] == 0.5 and all(a[name] == pytest.approx(float(b[name]), abs=1e-4) for name in ("accuracy", "chance", "gain"))
    nothing = {name: value[:1] for name, value in found.items()}
    assert model.criterion(nothing)["loss_colorization"] == 0 and all(math.isfinite(value) for value in model.metrics(nothing).values())


def test_gain_is_0_for_the_prior_and_the_loss_is_ln_q_at_equal_logits(photos):
    _, model, _, _ = build("Colorization", photos, **ONE)
    target = torch.zeros(2, len(AB_BINS), 1, 2)
    target[0, 3], target[1, 5] = 1, 1
    rest = {"target_ab": target, "colored": torch.tensor([True, True]), "features": torch.eye(2)}
    equal = {"logits_ab": torch.zeros_like(target)} | rest
    assert model.criterion(equal)["loss_colorization"] == pytest.approx(math.log(261))
    prior = {"logits_ab": target.mean((0, 2, 3)).clamp(min=1e-20).log().view(1, -1, 1, 1).expand_as(target)} | rest
    found = model.metrics(prior)
    assert found["gain"] == pytest.approx(0, abs=1e-5) and found["chance"] == 0.5
    sure = model.metrics({"logits_ab": 40 * target} | rest)
    assert sure["gain"] == pytest.approx(math.log(2), abs=1e-5) and sure["accuracy"] == 1


def test_other_directions_are_refused(photos):
    cfg, model, _, _ = build("Colorization", photos)
    cfg.merge_from_list(["DETCON.COLORIZATION.DIRECTIONS", "('ab->L',)"])
    assert [key for fulfilled, key, *_ in model.check_config(cfg) if not fulfilled] == ["DETCON.COLORIZATION.DIRECTIONS"]
