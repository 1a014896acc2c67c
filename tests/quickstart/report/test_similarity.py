"""Pairs are chosen by annotations in order, and the maps are those of the pure functions."""

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from detcon_d2.quickstart.report.inputs import LabelledImages
from detcon_d2.quickstart.report.similarity import choose_pairs, mean_separations, similarity_strips, spread_out


@pytest.fixture
def images(quickstart) -> LabelledImages:
    return LabelledImages(quickstart / "data", "val")


def oracle_features(images: LabelledImages, sign: float = 1.0) -> list[torch.Tensor]:
    """Features that encode the category of each pixel exactly (or, with sign -1, everything except the category)."""
    maps = []
    for index in range(len(images)):
        features = torch.zeros(len(images.categories) + 1, 48, 48)
        features[0] = 1.0
        for thing in images.objects(index):
            features[:, torch.from_numpy(thing.mask)] = 0.0
            features[thing.category, torch.from_numpy(thing.mask)] = 1.0
        maps.append(features if sign > 0 else 1 - features)
    return maps


def test_a_pair_is_an_object_and_the_next_image_with_its_category(images):
    pairs = choose_pairs(images, len(images))
    assert pairs
    for pair in pairs:
        same = [[thing.mask for thing in images.objects(index) if thing.category == pair.category] for index in range(len(images))]
        assert pair.region.sum() == max(mask.sum() for mask in same[pair.query])
        assert not any(same[pair.query + 1 : pair.target])
        np.testing.assert_array_equal(pair.objects, np.any(same[pair.target], axis=0))
    assert [pair.query for pair in pairs] == sorted(pair.query for pair in pairs)


def test_shown_pairs_repeat_neither_category_nor_query(images):
    pairs = choose_pairs(images, len(images))
    shown = spread_out(pairs, 3)
    assert 0 < len(shown) <= 3 and shown[0] is pairs[0]
    assert len({pair.category for pair in shown}) == len({pair.query for pair in shown}) == len(shown)


def test_features_that_encode_the_category_separate_perfectly(images):
    own, other = mean_separations(choose_pairs(images, len(images)), oracle_features(images))
    assert other == 1.0
    assert 0.9 < own <= 1.0  # another object of the category in the same image is as similar
    assert all(map(math.isnan, mean_separations([], oracle_features(images))))


def test_a_figure_shows_both_images_for_every_encoder_with_the_range_of_the_cosines(images):
    pair = choose_pairs(images, len(images))[0]
    strips = similarity_strips(images, pair, {"oracle": oracle_features(images), "inverse": oracle_features(images, -1.0)})
    rows = ElementTree.fromstring(f"<div>{strips}</div>").findall("div")
    captions = [[caption.text for caption in row.iter("figcaption")] for row in rows]
    name = images.categories[pair.category]
    assert [row[0] for row in captions] == [f"query: this {name}", f"another image with a {name}"]
    assert captions[0][1] == captions[1][1] == "oracle: cosine 0.00 to 1.00"
    assert all(len(row) == 3 for row in captions)
