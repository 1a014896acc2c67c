"""The FH generators: uint16 label maps, a layer for each scale, and parameters that people can give."""

import numpy as np
import pytest
import skimage

from detcon_d2.masks import REGION_GENERATOR_REGISTRY, build_generator
from detcon_d2.masks.generators import felzenszwalb as fh

RNG = np.random.default_rng(0)
PHOTO = skimage.data.chelsea()[:120, :160]


def test_a_layer_for_each_scale_and_each_is_plain_fh():
    generator = build_generator("fh_scales", scales=[20, 100, 300], min_sizes=[10, 50, 300], sigma=0.5)
    label_maps = generator(PHOTO, RNG)
    assert generator.layers == 3 and label_maps.shape == (3, 120, 160) and label_maps.dtype == np.uint16
    for layer, scale, min_size in zip(label_maps, (20, 100, 300), (10, 50, 300)):
        np.testing.assert_array_equal(layer, build_generator("fh", scale=scale, sigma=0.5, min_size=min_size)(PHOTO, RNG))
    assert label_maps[0].max() > label_maps[1].max() > label_maps[2].max()  # larger scales, fewer regions


def test_one_scale_is_one_layer():
    generator = build_generator("fh_scales", scales=[50])
    assert generator.layers == 1 and generator(PHOTO, RNG).shape == (1, 120, 160)


@pytest.mark.parametrize(("min_sizes", "expected"), [(None, [1, 20, 300]), ([7], [7, 7, 7]), ([1, 2, 3], [1, 2, 3])])
def test_min_sizes_are_the_scales_or_one_or_one_each(min_sizes, expected):
    params = build_generator("fh_scales", scales=[0.2, 20, 300], min_sizes=min_sizes).params()
    assert params == {"scales": [0.2, 20.0, 300.0], "sigma": 0.8, "min_sizes": expected}
    assert build_generator("fh_scales", **params).params() == params


@pytest.mark.parametrize(
    "params",
    [{"scales": []}, {"scales": [1, 0]}, {"sigma": -1}, {"min_sizes": [1, 2]}, {"min_sizes": [0]}, {"scales": [1], "min_sizes": []}],
)
def test_scales_out_of_range_are_refused(params):
    with pytest.raises(ValueError, match=r"fh_scales: found scales .* expected at least one scale"):
        build_generator("fh_scales", **params)


def test_too_many_regions_in_any_layer_are_refused():
    noise = RNG.integers(0, 256, (300, 300, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match="expected at most 65535"):
        build_generator("fh_scales", scales=[1000, 1e-9], sigma=0, min_sizes=[1])(noise, RNG)


def test_advice_is_smaller_than_what_was_used():
    generator = build_generator("fh_scales", scales=[300, 1000], min_sizes=[100, 500])
    assert generator.advice(480, 640) == "--scales 100,300 --min-sizes 30,200"
    assert generator.advice(32, 32) == "--scales 30,100 --min-sizes 4,20"
    assert build_generator("fh_scales", scales=[1], min_sizes=[1]).advice(2, 2) == "--scales 1 --min-sizes 1"


@pytest.mark.parametrize("name", ["fh", "fh_scales"])
def test_every_parameter_has_a_line_of_help(name):
    generator = build_generator(name)
    assert generator.HELP.keys() == generator.params().keys()
    assert all(text and "\n" not in text for text in REGION_GENERATOR_REGISTRY[name].HELP.values())


@pytest.mark.parametrize("name", ["fh", "fh_scales"])
def test_preparing_compiles(name, monkeypatch):
    calls = []
    monkeypatch.setattr(fh, "_kernels", lambda: calls.append(1))
    build_generator(name).prepare()
    assert calls == [1]
