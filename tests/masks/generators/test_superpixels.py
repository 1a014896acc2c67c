"""Superpixels of scikit-image: labels without gaps, deterministic, any size, and what the parameters do."""

import numpy as np
import pytest

from detcon_d2.masks import build_generator, read_image

RNG = np.random.default_rng(0)
NAMES = ("slic", "quickshift", "watershed")


def halves(height: int = 60, width: int = 90) -> np.ndarray:
    image = np.full((height, width, 3), (200, 40, 40), np.uint8)
    image[:, width // 2 :] = (40, 40, 200)
    return image


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 5), (40, 31)])
def test_labels_have_no_gaps_whatever_the_size(name, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    label_map = build_generator(name)(image, RNG)
    assert label_map.shape == shape and label_map.dtype == np.uint16
    assert np.unique(label_map).tolist() == list(range(label_map.max() + 1))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_whatever_the_random_numbers(name, photos):
    image = read_image(sorted(photos.rglob("*.png"))[0])
    first, second = (build_generator(name)(image, np.random.default_rng(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)
    assert first.max() > 0


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


def test_a_compact_watershed_is_nearly_a_grid():
    image = np.random.default_rng(0).integers(0, 256, (80, 80, 3)).astype(np.uint8)
    sizes = [np.bincount(build_generator("watershed", compactness=c)(image, RNG).ravel()) for c in (0, 1e6)]
    assert sizes[1].std() < 0.3 * sizes[0].std()


def test_quickshift_works_on_a_reduced_image():
    image = halves(60, 90)
    label_map = build_generator("quickshift", side=30)(image, RNG)
    blocks = label_map.reshape(20, 3, 30, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    np.testing.assert_array_equal(build_generator("quickshift", side=90)(image, RNG), build_generator("quickshift", side=900)(image, RNG))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("slic", {"segments": 0}, "slic: found segments 0.*expected segments >= 1"),
        ("slic", {"compactness": 0}, "compactness > 0"),
        ("slic", {"sigma": -1}, "sigma >= 0"),
        ("quickshift", {"kernel_size": 0}, "kernel_size > 0"),
        ("quickshift", {"max_dist": -1}, "max_dist > 0"),
        ("quickshift", {"ratio": 1.5}, "0 <= ratio <= 1"),
        ("quickshift", {"side": 0}, "side >= 1"),
        ("watershed", {"markers": 0}, "watershed: found markers 0.*expected markers >= 1"),
        ("watershed", {"compactness": -1}, "compactness >= 0"),
        ("watershed", {"sigma": -1}, "sigma >= 0"),
    ],
)
def test_parameters_out_of_range_are_refused(name, params, message):
    with pytest.raises(ValueError, match=message):
        build_generator(name, **params)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_rebuild_the_generator_and_have_help(name):
    generator = build_generator(name)
    assert build_generator(name, **generator.params()).params() == generator.params()
    assert type(generator).HELP.keys() == generator.params().keys() and generator.layers == 1 and not generator.needs_annotations


@pytest.mark.parametrize(
    ("name", "advice"),
    [("slic", "--segments 32 --compactness 20"), ("quickshift", "--kernel-size 2 --max-dist 15"), ("watershed", "--markers 32")],
)
def test_advice_gives_more_regions(name, advice):
    assert build_generator(name).advice(100, 100) == advice
