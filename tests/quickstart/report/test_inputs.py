"""A detection is correct once, for its category, with IoU 0.5; images come in order with their objects."""

import numpy as np
import pytest

from detcon_d2.quickstart.report.inputs import PREDICTIONS, LabelledImages, Thing, match
from detcon_d2.quickstart.results import read_predictions


def thing(category: int, left: int, width: int = 10) -> Thing:
    mask = np.zeros((20, 40), bool)
    mask[:10, left : left + width] = True
    return Thing(category, mask, (left, 0, width, 10))


@pytest.mark.parametrize(
    ("found", "objects", "expected"),
    [
        ([(1, 3)], [(1, 0)], [True]),  # 70 of 130 pixels
        ([(1, 4)], [(1, 0)], [False]),  # 60 of 140
        ([(2, 0)], [(1, 0)], [False]),
        ([(1, 0)], [], [False]),
        ([(1, 2), (1, 0)], [(1, 0)], [True, False]),  # an object is found once, by the best detection
        ([(1, 3, 12), (1, 0, 12)], [(1, 0, 12), (1, 4, 12)], [True, True]),  # each takes the object that it overlaps most
    ],
)
def test_a_detection_is_correct_with_its_category_and_an_iou_of_one_half(found, objects, expected):
    matched = match([thing(*one) for one in found], [thing(*one) for one in objects])
    assert [one.correct for one in matched] == expected


@pytest.fixture
def images(quickstart) -> LabelledImages:
    return LabelledImages(quickstart / "data", "val")


def test_the_best_detections_are_compared_as_many_as_objects(quickstart, images):
    predictions = read_predictions(quickstart / "random/finetune" / PREDICTIONS)
    many = predictions[1]
    found = images.detections(0, {1: [*many, {**many[0], "score": 0.99}, {**many[0], "score": 0.01}]})
    assert len(found) == len(images.objects(0)) and found[0].score == 0.99
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for index in range(4):
        correct = [one.correct for one in images.detections(index, predictions)]
        assert correct == [index % 2 == 0] * len(images.objects(index))
    assert images.detections(0, {}) == []


def test_images_come_in_the_order_of_their_names_with_their_objects(images):
    assert len(images) == 6 and images.image(0).shape == (48, 48, 3)
    assert images.counts.total() == sum(len(images.objects(index)) for index in range(6)) > 6
    assert all(one.mask.shape == (48, 48) and one.mask.any() for one in images.objects(0))
