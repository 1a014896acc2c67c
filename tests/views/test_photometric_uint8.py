"""Photometric augmentation in 8 bits against the exact operators: mean absolute differences in 1/255, on photographs."""

import cv2
import numpy as np
import pytest
import skimage.data

from detcon_d2.views.photometric import BRIGHTNESS, CONTRAST, HUE, SATURATION, PhotometricAugmentation, PhotometricTransform
from detcon_d2.views.photometric_uint8 import apply_photometric_uint8

IMAGES = [cv2.resize(photo, (224, 224)) for photo in (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())]
STRENGTHS = {"dm_pix": (0.4, 0.4, 0.2, 0.1), "torchvision": (0.8, 0.8, 0.8, 0.2)}


def difference(transform: PhotometricTransform, image: np.ndarray) -> np.ndarray:
    """|fast - exact| in 1/255, both beginning with the same 8 bits."""
    fast = apply_photometric_uint8(transform, image)
    assert fast.dtype == np.uint8 and fast.shape == image.shape
    return np.abs(fast - transform.apply_image(image / np.float32(255)) * 255)


def jitter(operators: str, *steps: tuple[int, float]) -> PhotometricTransform:
    return PhotometricTransform(operators=operators, jitter=steps)


# Rounding alone makes a mean of 0.25 and at most 0.5. HSV has 256 steps of hue: 6 / 512 of the chroma at most, twice.
OPERATORS = {
    "brightness": ([jitter("dm_pix", (BRIGHTNESS, delta)) for delta in (-0.4, 0.1, 0.37)], 0.3, 0.6),
    "contrast": ([jitter("dm_pix", (CONTRAST, factor)) for factor in (0.6, 0.9, 1.4)], 0.3, 0.6),
    "less saturation": ([jitter("dm_pix", (SATURATION, factor)) for factor in (0.0, 0.5, 0.8, 0.95)], 0.3, 0.6),
    "more saturation": ([jitter("dm_pix", (SATURATION, factor)) for factor in (1.05, 1.2, 2.0)], 0.35, 10),
    "hue": ([jitter("dm_pix", (HUE, delta)) for delta in (-0.1, -0.033, 0.05, 0.1)], 0.45, 10),
    "hue and saturation": (
        [jitter("dm_pix", (HUE, 0.07), (SATURATION, 1.15)), jitter("dm_pix", (SATURATION, 0.85), (HUE, -0.09))],
        0.6,
        10,
    ),
    "scaled brightness": ([jitter("torchvision", (BRIGHTNESS, factor)) for factor in (0.2, 0.8, 1.8)], 0.3, 0.6),
    "blended contrast": ([jitter("torchvision", (CONTRAST, factor)) for factor in (0.2, 0.8, 1.8)], 0.3, 0.6),
    "blended saturation": ([jitter("torchvision", (SATURATION, factor)) for factor in (0.2, 0.8, 1.8)], 0.3, 1),
    "grey": ([PhotometricTransform(gray=True)], 0.3, 1),
    "blur": ([PhotometricTransform(blur_sigma=sigma) for sigma in (0.1, 0.25, 0.3, 0.6, 1.0, 1.5, 2.0)], 0.3, 2),
    "solarize": ([PhotometricTransform(solarize_threshold=threshold) for threshold in (0.0, 0.5, 0.7, 1.0)], 1e-4, 1e-3),
    "nothing": ([PhotometricTransform()], 1e-4, 1e-3),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_is_the_exact_one_up_to_rounding(name):
    transforms, mean, largest = OPERATORS[name]
    found = np.stack([difference(transform, image) for transform in transforms for image in IMAGES])
    assert found.mean() < mean and found.max() < largest, (found.mean(), found.max())


@pytest.mark.parametrize("operators", STRENGTHS)
def test_drawn_transforms_are_the_exact_ones_up_to_rounding_after_each_operator(operators):
    augmentation = PhotometricAugmentation(
        operators=operators,
        jitter_prob=0.8,
        strengths=STRENGTHS[operators],
        gray_prob=0.2,
        blur_prob=0.5,
        blur_sigma=(0.1, 2.0),
        blur_kernel=0.1,
        solarize_prob=0.2,
        solarize_threshold=0.5,
    )
    means = []
    for seed in range(90):
        means.append(difference(augmentation.sample(np.random.default_rng(seed)), IMAGES[seed % 3]).mean())
    # Single views differ more where one operator darkens and a later one multiplies what was rounded.
    assert np.mean(means) < 0.5 and np.max(means) < 2


def test_the_input_is_never_written():
    image = IMAGES[0].copy()
    image.setflags(write=False)
    steps = ((BRIGHTNESS, 0.1), (HUE, 0.1), (CONTRAST, 1.2), (SATURATION, 0.8))
    for transform in (PhotometricTransform(), PhotometricTransform(jitter=steps, gray=True, blur_sigma=1.0, solarize_threshold=0.5)):
        apply_photometric_uint8(transform, image)
    np.testing.assert_array_equal(image, IMAGES[0])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (30, 7)])
def test_small_images_can_be_augmented(shape):
    image = np.full((*shape, 3), 80, np.uint8)
    transform = PhotometricTransform(jitter=((0, 0.1), (1, 1.4), (2, 0.8), (3, 0.1)), gray=True, blur_sigma=1.5, solarize_threshold=0.5)
    assert difference(transform, image).max() < 3
