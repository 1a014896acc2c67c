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
