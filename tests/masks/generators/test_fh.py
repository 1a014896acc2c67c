"""The FH generators: uint16 label maps, a layer for each scale, and parameters that people can give."""

import numpy as np
import pytest
import skimage

from detcon_d2.masks import build_generator
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


def test_too_many_regions_in_any_layer_are_refused():
    noise = RNG.integers(0, 256, (300, 300, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match="expected at most 65535"):
        build_generator("fh_scales", scales=[1000, 1e-9], sigma=0, min_sizes=[1])(noise, RNG)


@pytest.mark.parametrize("name", ["fh", "fh_scales"])
def test_preparing_compiles(name, monkeypatch):
    calls = []
    monkeypatch.setattr(fh, "_kernels", lambda: calls.append(1))
    build_generator(name).prepare()
    assert calls == [1]
