"""Masks are pasted into the image as documented on both backends, and alike."""

import pytest
import torch


@pytest.fixture
def paste(backend):
    return backend.get("layers").paste_masks_in_image


def test_pasted_masks_fill_their_box_and_nothing_else(paste):
    boxes = torch.tensor([[2.0, 1, 6, 5], [0, 0, 3, 8]])
    expected = torch.zeros(2, 8, 10, dtype=torch.bool)
    expected[0, 1:5, 2:6] = expected[1, 0:8, 0:3] = True
    pasted = paste(torch.ones(2, 28, 28), boxes, (8, 10))
    assert pasted.dtype == torch.bool and torch.equal(pasted, expected)


def test_pasted_masks_are_not_mirrored_and_the_threshold_is_inclusive(paste):
    mask = torch.zeros(1, 4, 4)
    mask[0, :2] = 0.5
    mask[0, 0, 0] = 0.49
    assert paste(mask, torch.tensor([[0.0, 0, 4, 4]]), (4, 4))[0].tolist() == (mask[0] >= 0.5).tolist()


def test_no_masks_empty_boxes_and_masks_that_are_not_square(paste):
    assert paste(torch.ones(0, 28, 28), torch.zeros(0, 4), (5, 6)).shape == (0, 5, 6)
    assert not paste(torch.ones(1, 28, 28), torch.tensor([[2.0, 2, 2, 2]]), (5, 6)).any()
    with pytest.raises(AssertionError):
        paste(torch.ones(1, 2, 3), torch.zeros(1, 4), (5, 6))


def test_a_box_outside_the_image_pastes_nothing(subset):
    outside = torch.tensor([[20.0, 20, 30, 30], [-30, 0, -20, 5]])
    assert not subset.get("layers").paste_masks_in_image(torch.ones(2, 4, 4), outside, (5, 6)).any()


def test_both_backends_paste_alike(subset, real):
    generator = torch.Generator().manual_seed(0)
    masks, corners = torch.rand(12, 28, 28, generator=generator), torch.rand(12, 2, 2, generator=generator)
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1) * torch.tensor([70, 60, 70, 60])
    boxes[:2, 2:] += 300
    ours, theirs = (each.get("layers").paste_masks_in_image(masks, boxes, (60, 70)) for each in (subset, real))
    assert torch.equal(ours, theirs) and ours.any()
