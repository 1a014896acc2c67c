"""Pairs are chosen by annotations in order, the maps are those of the pure functions, and everything is drawn."""

import math

import numpy as np
import pytest
import torch

from detcon_d2.quickstart.report.inputs import LabelledImages
from detcon_d2.quickstart.report.pictures import choose_pairs, draw_detections, draw_similarity, mean_separations


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
    assert pairs == sorted(pairs, key=lambda pair: (pair.category, pair.query))


def test_features_that_encode_the_category_separate_perfectly(images):
    own, other = mean_separations(choose_pairs(images, len(images)), oracle_features(images))
    assert other == 1.0
    assert 0.9 < own <= 1.0  # another object of the category in the same image is as similar
    assert all(map(math.isnan, mean_separations([], oracle_features(images))))


def test_sheets_have_a_picture_for_every_image_and_method(images):
    encoders = {"oracle": oracle_features(images), "inverse": oracle_features(images, -1.0)}
    one, two = (draw_similarity(images, choose_pairs(images, len(images))[:count], encoders) for count in (1, 2))
    assert one.dtype == np.uint8 and one.shape[1] == two.shape[1] and two.shape[0] > 1.7 * one.shape[0]
    objects = [images.objects(index) for index in range(3)]
    wrong = [[thing._replace(score=0.5, correct=False) for thing in things] for things in objects]
    filled, dotted = (draw_detections(images, {"one": found, "other": objects}) for found in (objects, wrong))
    assert filled.shape == dotted.shape and (filled != dotted).any()
