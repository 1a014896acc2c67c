"""Detections at the size of the original image, on both backends, and alike."""

import pytest
import torch

BOXES = [[1.0, 2.0, 10.0, 20.0], [5.0, 5.0, 5.0, 20.0], [40.0, 30.0, 60.0, 60.0]]


def postprocess(backend, masks, *size, keep=slice(None)):
    """Detections in an image of 40 x 50, at ``size``."""
    structures, scores = backend.get("structures"), torch.tensor([0.9, 0.8, 0.7])
    found = structures.Instances((40, 50), pred_boxes=structures.Boxes(torch.tensor(BOXES)), scores=scores, pred_masks=masks)
    resized = backend.get("modeling").detector_postprocess(found[keep], *size)
    if backend.name == "subset":
        assert found.pred_boxes.tensor.tolist() == BOXES and found.image_size == (40, 50), "the input is not changed"
    return resized


def test_boxes_are_scaled_and_clipped_and_empty_ones_removed(backend):
    resized = postprocess(backend, torch.zeros(3, 1, 4, 4), 80, 25)
    assert resized.image_size == (80, 25) and resized.scores.tolist() == pytest.approx([0.9, 0.7])
    assert resized.pred_boxes.tensor.tolist() == [[0.5, 4.0, 5.0, 40.0], [20.0, 60.0, 25.0, 80.0]]
    nothing = postprocess(backend, torch.zeros(3, 1, 4, 4), 20, 30, keep=slice(0))
    assert len(nothing) == 0 and nothing.pred_masks.shape == (0, 20, 30) and nothing.image_size == (20, 30)
