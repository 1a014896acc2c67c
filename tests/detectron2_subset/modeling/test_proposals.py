"""From scored boxes to proposals, on both backends, and alike."""

import pytest
import torch
from torch.testing import assert_close

IMAGE = (20, 30)


@pytest.fixture
def utils(backend):
    return backend.get("modeling.proposal_generator.proposal_utils")


def find(utils, boxes, logits, *, training=False, nms=0.7, before=100, after=100, min_size=0.0):
    """Proposals of one image, from lists of maps."""
    maps = [torch.tensor(level, dtype=torch.float32)[None] for level in boxes], [torch.tensor(level)[None] for level in logits]
    return utils.find_top_rpn_proposals(*maps, [IMAGE], nms, before, after, min_size, training)[0]


def test_proposals_are_clipped_to_the_image_sorted_and_not_small(utils):
    found = find(utils, [[[-5, -5, 10, 10], [20, 10, 90, 90]]], [[0.1, 0.9]])
    assert found.proposal_boxes.tensor.tolist() == [[20, 10, 30, 20], [0, 0, 10, 10]]
    assert_close(found.objectness_logits, torch.tensor([0.9, 0.1]))
    assert found.image_size == IMAGE
    boxes = [[[0, 0, 10, 3], [25, 0, 40, 10], [40, 0, 50, 10]]]
    assert len(find(utils, boxes, [[3.0, 2.0, 1.0]])) == 2
    assert find(utils, boxes, [[3.0, 2.0, 1.0]], min_size=4).objectness_logits.tolist() == [2.0]


def test_boxes_are_suppressed_within_their_map_only(utils):
    box, shifted = [0, 0, 10, 10], [0, 0, 10, 9]
    assert len(find(utils, [[box, shifted]], [[0.1, 0.9]])) == 1
    assert len(find(utils, [[box], [shifted]], [[0.1], [0.9]])) == 2
    assert len(find(utils, [[box, shifted]], [[0.1, 0.9]], nms=0.95)) == 2


def test_the_first_limit_is_for_each_map_and_the_second_for_all(utils):
    boxes = [[[x, y, x + 2, y + 2] for x in range(0, 30, 3)] for y in (0, 10)]
    logits = [[float(x) for x in range(10)], [x + 0.5 for x in range(10)]]
    assert len(find(utils, boxes, logits, before=4)) == 8
    assert find(utils, boxes, logits, before=4, after=3).objectness_logits.tolist() == [9.5, 9.0, 8.5]


@pytest.mark.parametrize("box, logit", [([0, 0, float("nan"), 5], 1.0), ([0, 0, 5, float("inf")], 1.0), ([0, 0, 5, 5], float("inf"))])
def test_predictions_that_are_not_finite_stop_training_and_are_removed_in_inference(utils, box, logit):
    boxes, logits = [[box, [0, 0, 8, 8]]], [[logit, 0.5]]
    with pytest.raises(FloatingPointError):
        find(utils, boxes, logits, training=True)
    assert find(utils, boxes, logits).proposal_boxes.tensor.tolist() == [[0, 0, 8, 8]]


def test_ground_truth_joins_the_proposals_with_a_high_score(utils, backend):
    structures = backend.get("structures")
    truth = structures.Instances(IMAGE, gt_boxes=structures.Boxes([[2, 2, 4, 4], [3, 3, 9, 9]]), gt_classes=torch.zeros(2))
    given = structures.Instances(IMAGE, proposal_boxes=structures.Boxes([[0, 0, 1, 1]]), objectness_logits=torch.zeros(1))
    joined, none = utils.add_ground_truth_to_proposals([truth, truth[:0]], [given, given])
    assert joined.proposal_boxes.tensor.tolist() == [[0, 0, 1, 1], [2, 2, 4, 4], [3, 3, 9, 9]]
    assert_close(joined.objectness_logits, torch.tensor([0.0, 23.02585, 23.02585]), rtol=0, atol=1e-4)
    assert not joined.has("gt_classes") and none.proposal_boxes.tensor.tolist() == [[0, 0, 1, 1]]
    with pytest.raises(ValueError):
        utils.add_ground_truth_to_proposals([truth] * 2, [given])
