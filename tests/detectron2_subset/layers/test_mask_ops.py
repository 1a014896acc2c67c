"""Layers of R-CNN heads, on every backend present, and alike on both."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close


@pytest.fixture
def layers(backend):
    return backend.get("layers")


def boxes_in(height: int, width: int, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator)
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1) * torch.tensor([width, height, width, height])


def test_suppression_keeps_the_best_of_overlapping_boxes_of_one_group(layers):
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]], dtype=torch.float64)
    scores, groups = torch.tensor([0.1, 0.9, 0.5, 0.3]), torch.tensor([0, 0, 1, 0])
    assert layers.batched_nms(boxes, scores, groups, 0.5).tolist() == [1, 2, 3]
    assert layers.batched_nms(boxes, scores, groups, 0.95).tolist() == [1, 2, 3, 0]
    assert len(layers.batched_nms(boxes[:0], scores[:0], groups[:0], 0.5)) == 0


def test_nonzero_tuple_gives_one_vector_a_dimension(layers):
    rows, columns = layers.nonzero_tuple(torch.tensor([[0, 2], [3, 0]]))
    assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]


def test_the_mean_cross_entropy_of_nothing_is_zero_with_a_gradient(layers):
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = layers.cross_entropy(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0 and logits.grad.shape == (0, 3)
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    for reduction in ("mean", "sum", "none"):
        assert_close(layers.cross_entropy(logits, target, reduction=reduction), F.cross_entropy(logits, target, reduction=reduction))


def test_heads_take_batches_without_boxes(layers):
    norm = layers.get_norm("GN", 32)
    x = layers.Conv2d(4, 32, 3, padding=1, bias=False, norm=norm, activation=F.relu)(torch.zeros(0, 4, 7, 7))
    assert x.shape == (0, 32, 7, 7)


def test_roi_align_samples_cell_centres_at_half_pixels(layers):
    ramp = torch.arange(8.0).repeat(8, 1)[None, None]
    roi = torch.tensor([[0.0, 2, 2, 6, 6]])
    # With aligned boxes, a bin that covers exactly one cell has the value of that cell.
    assert_close(layers.ROIAlign(4, 1.0, 0)(ramp, roi)[0, 0], torch.arange(2.0, 6.0).repeat(4, 1))
    assert_close(layers.ROIAlign((4, 4), 1.0, 0, aligned=False)(ramp, roi)[0, 0], torch.arange(2.5, 6.5).repeat(4, 1))
    assert_close(layers.ROIAlign(4, 0.5, 0)(ramp, roi * 2), layers.ROIAlign(4, 1.0, 0)(ramp, roi))


def test_roi_align_takes_the_image_that_a_box_names_and_no_boxes(layers):
    maps = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    pooled = layers.ROIAlign(2, 1.0, 2)(maps, torch.tensor([[1.0, 0, 0, 4, 4], [0, 0, 0, 4, 4]]))
    assert pooled.mean(dim=(1, 2, 3)).tolist() == [1, 0]
    assert layers.ROIAlign(2, 1.0, 2)(maps, torch.zeros(0, 5)).shape == (0, 1, 2, 2)
    with pytest.raises(AssertionError):
        layers.ROIAlign(2, 1.0, 2)(maps, torch.zeros(3, 4))
    assert "spatial_scale=0.25" in repr(layers.ROIAlign((7, 7), 0.25, 0))


def test_pasted_masks_fill_their_box_and_nothing_else(layers, backend):
    boxes = torch.tensor([[2.0, 1, 6, 5], [0, 0, 3, 8]])
    expected = torch.zeros(2, 8, 10, dtype=torch.bool)
    expected[0, 1:5, 2:6] = expected[1, 0:8, 0:3] = True
    pasted = layers.paste_masks_in_image(torch.ones(2, 28, 28), boxes, (8, 10))
    assert pasted.dtype == torch.bool and torch.equal(pasted, expected)
    wrapped = backend.get("structures").Boxes(boxes)
    assert torch.equal(layers.paste_masks_in_image(torch.ones(2, 28, 28), wrapped, (8, 10)), expected)


def test_pasted_masks_are_mirrored_by_no_axis(layers):
    mask = torch.zeros(1, 4, 4)
    mask[0, :2] = 1.0
    mask[0, 0, 0] = 0.0
    pasted = layers.paste_masks_in_image(mask, torch.tensor([[0.0, 0, 4, 4]]), (4, 4))
    assert pasted[0].tolist() == (mask[0] > 0.5).tolist()


def test_a_threshold_is_inclusive_and_a_negative_one_keeps_soft_values(layers):
    mask, box = torch.full((1, 1, 1), 0.5), torch.tensor([[0.0, 0, 1, 1]])
    assert layers.paste_masks_in_image(mask, box, (1, 1), threshold=0.5).all()
    assert not layers.paste_masks_in_image(mask, box, (1, 1), threshold=0.6).any()
    soft = layers.paste_masks_in_image(mask, box, (1, 1), threshold=-1)
    assert soft.dtype == torch.uint8 and soft.item() == 127


def test_degenerate_pasting(layers):
    assert layers.paste_masks_in_image(torch.ones(0, 28, 28), torch.zeros(0, 4), (5, 6)).shape == (0, 5, 6)
    assert not layers.paste_masks_in_image(torch.ones(1, 28, 28), torch.tensor([[2.0, 2, 2, 2]]), (5, 6)).any()
    with pytest.raises(AssertionError):
        layers.paste_masks_in_image(torch.ones(1, 2, 3), torch.zeros(1, 4), (5, 6))


def test_a_box_outside_the_image_pastes_nothing(subset):
    outside = torch.tensor([[20.0, 20, 30, 30], [-30, 0, -20, 5]])
    assert not subset.get("layers").paste_masks_in_image(torch.ones(2, 4, 4), outside, (5, 6)).any()


@pytest.mark.parametrize("threshold", [0.5, 0.7, -1])
def test_both_backends_paste_alike(subset, real, threshold):
    masks, boxes = torch.rand(12, 28, 28, generator=torch.manual_seed(0)), boxes_in(60, 70, 12)
    boxes[:2, 2:] += 300
    ours, theirs = (each.get("layers").paste_masks_in_image(masks, boxes, (60, 70), threshold) for each in (subset, real))
    assert ours.dtype == theirs.dtype and torch.equal(ours, theirs) and ours.any()


def test_both_backends_suppress_and_pool_alike(subset, real):
    boxes, scores = boxes_in(40, 40, 200), torch.rand(200, generator=torch.manual_seed(0))
    groups = torch.arange(200) % 3
    ours, theirs = (each.get("layers").batched_nms(boxes, scores, groups, 0.4) for each in (subset, real))
    assert torch.equal(ours, theirs) and len(ours) < 200
    maps, rois = torch.randn(2, 3, 20, 20), torch.cat([(groups[:, None] % 2).float(), boxes], dim=1)
    for ratio in (0, 2):
        ours, theirs = (each.get("layers").ROIAlign((7, 7), 0.5, ratio)(maps, rois) for each in (subset, real))
        assert_close(ours, theirs, rtol=0, atol=1e-5)
