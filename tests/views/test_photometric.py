"""Operators against the released code's numbers and torchvision's; sampling against its distributions.

``aug_oracle_small.npz`` is the first image and some of the amounts of ``aug_oracle.npz`` with the same keys: made by the released
code, unmodified, on a CPU.
"""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from detcon_d2.views import color
from detcon_d2.views.photometric import JITTER_OPERATORS, PhotometricAugmentation, PhotometricTransform

CHAIN = "chain_contrast1.3_hue.08_brightness.2_saturation1.15"
B_VIEW_1 = {
    "operators": "dm_pix",
    "jitter_prob": 0.8,
    "strengths": (0.4, 0.4, 0.2, 0.1),
    "gray_prob": 0.2,
    "blur_prob": 1.0,
    "blur_sigma": (0.1, 2.0),
    "blur_kernel": 0.1,
    "solarize_prob": 0.0,
    "solarize_threshold": 0.5,
}


@pytest.fixture(params=["extract", "full"])
def oracle(request, fixtures_dir):
    if request.param == "extract":
        path = fixtures_dir / "aug_oracle_small.npz"
    else:
        path = request.getfixturevalue("shared_dir") / "oracles" / "aug_oracle.npz"
    with np.load(path) as arrays:
        return dict(arrays)


def random_image(seed: int = 0, size: int = 48) -> np.ndarray:
    """Noise with flat, black, white and grey patches, where ratios are 0 / 0."""
    image = np.random.default_rng(seed).random((size, size + 8, 3), dtype=np.float32)
    image[:8, :8], image[:8, 8:16], image[:8, 16:24] = 0, 1, 0.37
    image[8:16, :8] = (1, 0, 0)
    return image


@pytest.mark.parametrize(
    "name, amounts, operator",
    [
        ("brightness", "brightness_delta", color.add_brightness),
        ("contrast", "contrast_factor", color.scale_contrast_per_channel),
        ("saturation", "saturation_factor", color.scale_hsv_saturation),
        ("hue", "hue_delta", color.shift_hue),
    ],
)
def test_jitter_operators_are_the_released_codes(oracle, name, amounts, operator):
    for amount, expected_images in zip(oracle[amounts], oracle[f"{name}_raw"]):
        for image, expected in zip(oracle["image_nhwc"], expected_images):
            np.testing.assert_allclose(operator(image, float(amount)), expected, atol=1e-5)


def test_grey_and_solarize_are_the_released_codes(oracle):
    for image, gray, solarized in zip(oracle["image_nhwc"], oracle["grayscale"], oracle["solarize_0.5"]):
        np.testing.assert_allclose(color.to_gray(image), gray, atol=1e-5)
        np.testing.assert_allclose(color.solarize(image, 0.5), solarized, atol=1e-5)


def test_blur_is_the_released_codes_with_zeros_outside(oracle):
    radius = color.blur_radius(0.1, oracle["image_nhwc"].shape[2])
    for sigma, expected_images in zip(oracle["blur_sigma"], oracle["blur"]):
        for image, expected in zip(oracle["image_nhwc"], expected_images):
            np.testing.assert_allclose(color.gaussian_blur(image, radius, float(sigma)), expected, atol=1e-5)


def test_blur_at_224_has_23_taps(oracle):
    assert color.blur_radius(0.1, 224) == 11
    np.testing.assert_allclose(color.gaussian_kernel(11, 2.0), oracle["blur224_kernel1d"], atol=1e-7)
    for image, expected in zip(oracle.get("blur224_image_nhwc", []), oracle.get("blur224", [])):
        np.testing.assert_allclose(color.gaussian_blur(image, 11, 2.0), expected, atol=1e-5)


def test_a_jitter_chain_clips_after_each_operator(oracle):
    transform = PhotometricTransform(jitter=((1, 1.3), (3, 0.08), (0, 0.2), (2, 1.15)))
    for image, expected in zip(oracle["image_nhwc"], oracle[CHAIN]):
        np.testing.assert_allclose(transform.apply_image(image), expected, atol=1e-5)


@pytest.mark.parametrize(
    "operator, reference, amounts",
    [
        (color.scale_brightness, tv.adjust_brightness, (0.2, 1.0, 1.8)),
        (color.blend_contrast, tv.adjust_contrast, (0.2, 1.0, 1.8)),
        (color.blend_saturation, tv.adjust_saturation, (0.0, 0.2, 1.8)),
        (color.shift_hue, tv.adjust_hue, (-0.2, 0.0, 0.13, 0.5)),
    ],
)
def test_torchvisions_operators_are_torchvisions(operator, reference, amounts):
    image = random_image()
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    for amount in amounts:
        expected = reference(tensor, amount).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(operator(image, amount).clip(0, 1), expected, atol=1e-5)


@pytest.mark.parametrize("operators", JITTER_OPERATORS)
def test_neutral_amounts_change_nothing_and_inputs_are_never_written(operators):
    image = random_image()
    image.setflags(write=False)
    neutral = (0.0 if operators == "dm_pix" else 1.0, 1.0, 1.0, 0.0)
    transform = PhotometricTransform(operators=operators, jitter=tuple(enumerate(neutral)))
    np.testing.assert_allclose(transform.apply_image(image), image, atol=1e-5)


@pytest.mark.parametrize("operators", JITTER_OPERATORS)
def test_sampled_transforms_stay_in_range_and_repeat(operators):
    augmentation = PhotometricAugmentation(**(B_VIEW_1 | {"operators": operators, "strengths": (0.8, 0.8, 0.8, 0.2), "solarize_prob": 0.5}))
    image = random_image()
    for seed in range(30):
        transform = augmentation.sample(np.random.default_rng(seed))
        seen = transform.apply_image(image)
        assert seen.dtype == np.float32 and seen.shape == image.shape and np.isfinite(seen).all()
        assert seen.min() >= 0 and seen.max() <= 1
        again = augmentation.sample(np.random.default_rng(seed))
        assert again == transform
        np.testing.assert_array_equal(again.apply_image(image), seen)


def test_sampling_follows_probabilities_ranges_and_random_order():
    augmentation = PhotometricAugmentation(**(B_VIEW_1 | {"blur_prob": 0.1, "solarize_prob": 0.2}))
    rng = np.random.default_rng(0)
    transforms = [augmentation.sample(rng) for _ in range(4000)]
    for chosen, expected in (
        ([bool(t.jitter) for t in transforms], 0.8),
        ([t.gray for t in transforms], 0.2),
        ([t.blur_sigma is not None for t in transforms], 0.1),
        ([t.solarize_threshold is not None for t in transforms], 0.2),
    ):
        assert np.mean(chosen) == pytest.approx(expected, abs=0.03)
    jittered = [t.jitter for t in transforms if t.jitter]
    assert len({tuple(operator for operator, _ in jitter) for jitter in jittered}) == 24
    for operator, (low, high) in enumerate([(-0.4, 0.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        amounts = np.array([dict(jitter)[operator] for jitter in jittered])
        assert low <= amounts.min() and amounts.max() <= high
        np.testing.assert_allclose(
            np.quantile(amounts, [0.25, 0.75]), [low + (high - low) / 4, high - (high - low) / 4], atol=0.05 * (high - low)
        )
    sigmas = [t.blur_sigma for t in transforms if t.blur_sigma is not None]
    assert 0.1 <= min(sigmas) < 0.2 and 1.9 < max(sigmas) <= 2


def test_changing_one_probability_leaves_the_other_draws_alone():
    plain, solarizing = (PhotometricAugmentation(**(B_VIEW_1 | {"solarize_prob": p})) for p in (0.0, 1.0))
    for seed in range(20):
        a, b = (augmentation.sample(np.random.default_rng(seed)) for augmentation in (plain, solarizing))
        assert (a.jitter, a.gray, a.blur_sigma) == (b.jitter, b.gray, b.blur_sigma)


def test_strong_multiplicative_amounts_never_go_below_zero():
    augmentation = PhotometricAugmentation(**(B_VIEW_1 | {"operators": "torchvision", "strengths": (1.5, 1.5, 1.5, 0.5)}))
    amounts = [dict(augmentation.sample(np.random.default_rng(seed)).jitter) for seed in range(100)]
    assert all(jitter[operator] >= 0 for jitter in amounts if jitter for operator in range(3))


@pytest.mark.parametrize(
    "change, key",
    [
        ({"operators": "pil"}, "OPERATORS"),
        ({"jitter_prob": 1.1}, "JITTER_PROB"),
        ({"gray_prob": -0.1}, "GRAY_PROB"),
        ({"strengths": (0.4, 0.4, 0.2, 0.6)}, "HUE"),
        ({"strengths": (-0.4, 0.4, 0.2, 0.1)}, "BRIGHTNESS"),
        ({"blur_sigma": (0.0, 2.0)}, "BLUR_SIGMA"),
    ],
)
def test_impossible_settings_are_refused_by_key(change, key):
    with pytest.raises(ValueError, match=rf"DETCON\.AUG\..*{key}.* is .*expected"):
        PhotometricAugmentation(**(B_VIEW_1 | change))
