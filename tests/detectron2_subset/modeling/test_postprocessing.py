"""Detections at the size of the original image, on every backend present, and alike on both."""

import pytest
import torch
from torch.testing import assert_close

BOXES = [[1.0, 2.0, 10.0, 20.0], [5.0, 5.0, 5.0, 20.0], [40.0, 30.0, 60.0, 60.0]]


def detections(backend, field="pred_boxes", masks=None):
    structures = backend.get("structures")
    found = structures.Instances((40, 50), **{field: structures.Boxes(torch.tensor(BOXES))}, scores=torch.tensor([0.9, 0.8, 0.7]))
    if masks is not None:
        found.pred_masks = masks
    return found


def postprocess(backend, found, *size, **options):
    return backend.get("modeling").detector_postprocess(found, *size, **options)


@pytest.mark.parametrize("field", ["pred_boxes", "proposal_boxes"])
def test_boxes_are_scaled_clipped_and_dropped_when_empty(backend, field):
    resized = postprocess(backend, detections(backend, field), 80, 25)
    assert resized.image_size == (80, 25)
    assert resized.get(field).tensor.tolist() == [[0.5, 4.0, 5.0, 40.0], [20.0, 60.0, 25.0, 80.0]]
    assert resized.scores.tolist() == pytest.approx([0.9, 0.7])


def test_masks_are_pasted_into_the_resized_boxes(backend):
    masks = torch.zeros(3, 1, 4, 4)
    masks[0, 0, :, :2] = 1.0
    masks[2] = 1.0
    pasted = postprocess(backend, detections(backend, masks=masks), 40, 50).pred_masks
    assert pasted.shape == (2, 40, 50) and pasted.dtype == torch.bool
    left = torch.zeros(40, 50, dtype=torch.bool)
    left[2:20, 1:6] = True
    assert (pasted[0] ^ left).sum() <= 18 and pasted[0, 10, 2] and not pasted[0, 10, 8]
    assert pasted[1, 31:39, 41:49].all() and not pasted[1, :29].any()


def test_the_threshold_is_that_of_the_caller(backend):
    masks = torch.full((3, 1, 4, 4), 0.4)
    found = [postprocess(backend, detections(backend, masks=masks), 40, 50, mask_threshold=value).pred_masks.any() for value in (0.3, 0.5)]
    assert [bool(one) for one in found] == [True, False]


def test_nothing_found_stays_nothing(backend):
    resized = postprocess(backend, detections(backend, masks=torch.zeros(3, 1, 4, 4))[:0], 20, 30)
    assert len(resized) == 0 and resized.pred_masks.shape == (0, 20, 30) and resized.image_size == (20, 30)


def test_detections_without_boxes_are_refused(backend):
    found = backend.get("structures").Instances((40, 50), scores=torch.ones(2))
    with pytest.raises((KeyError, AssertionError)):
        postprocess(backend, found, 80, 25)


def test_the_subset_leaves_its_input_alone(subset):
    found = detections(subset)
    postprocess(subset, found, 80, 25)
    assert found.pred_boxes.tensor.tolist() == BOXES and found.image_size == (40, 50)


@pytest.mark.parametrize("size", [(40, 50), (97, 31), (20, 200)])
def test_both_backends_give_the_same_boxes_and_masks(subset, real, size):
    masks = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ours, theirs = (postprocess(one, detections(one, masks=masks.clone()), *size) for one in (subset, real))
    assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert_close(ours.scores, theirs.scores)
    assert torch.equal(ours.pred_masks, theirs.pred_masks)
