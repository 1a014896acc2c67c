"""Superpixels of scikit-image: labels without gaps, deterministic, any size, and what the parameters do."""

import numpy as np
import pytest

from detcon_d2.masks import build_generator

RNG = np.random.default_rng(0)
NAMES = ("slic", "quickshift", "watershed")


def halves(height: int = 60, width: int = 90) -> np.ndarray:
    image = np.full((height, width, 3), (200, 40, 40), np.uint8)
    image[:, width // 2 :] = (40, 40, 200)
    return image


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (40, 31)])
def test_labels_have_no_gaps_whatever_the_size(name, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    label_map = build_generator(name)(image, RNG)
    assert label_map.shape == shape and label_map.dtype == np.uint16
    assert np.unique(label_map).tolist() == list(range(label_map.max() + 1))


@pytest.mark.parametrize("name", NAMES)
def test_regions_follow_a_clear_edge(name):
    label_map = build_generator(name)(halves(), RNG)
    left, right = (np.bincount(side.ravel(), minlength=label_map.max() + 1) for side in (label_map[:, :45], label_map[:, 45:]))
    assert np.minimum(left, right).sum() < 0.02 * label_map.size


@pytest.mark.parametrize("name", ["slic", "watershed"])
def test_about_as_many_regions_as_asked(name):
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3)).astype(np.uint8)
    param, params = {"slic": ("segments", {"compactness": 50.0}), "watershed": ("markers", {})}[name]
    for count in (4, 16, 100):
        assert 0.6 * count <= len(np.unique(build_generator(name, **params, **{param: count})(image, RNG))) <= 1.4 * count


def test_quickshift_works_on_a_reduced_image():
    image = halves(60, 90)
    label_map = build_generator("quickshift", side=30)(image, RNG)
    blocks = label_map.reshape(20, 3, 30, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    np.testing.assert_array_equal(build_generator("quickshift", side=90)(image, RNG), build_generator("quickshift", side=900)(image, RNG))
