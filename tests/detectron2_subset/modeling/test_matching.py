"""Offsets between boxes and the losses on them, on every backend present, and alike on both."""

import math

import pytest
import torch
from fvcore.nn import giou_loss
from torch.testing import assert_close

from detcon_d2.detectron2_subset.modeling.box_regression import Box2BoxTransform, box_regression_loss

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 50
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator) * 50], dim=1)


@pytest.fixture
def transform(backend):
    return backend.get("modeling.box_regression").Box2BoxTransform(WEIGHTS)


def test_offsets_follow_the_formula(transform):
    # Centre (2, 1), sides 4 x 2 to centre (4, 3), sides 2 x 4.
    deltas = transform.get_deltas(torch.tensor([[0.0, 0, 4, 2]]), torch.tensor([[3.0, 1, 5, 5]]))
    assert_close(deltas, torch.tensor([[10 * 2 / 4, 10 * 2 / 2, 5 * math.log(0.5), 5 * math.log(2)]]))


def test_offsets_take_a_box_to_its_target(transform):
    sources, targets = random_boxes(20), random_boxes(20, seed=1)
    assert_close(transform.apply_deltas(transform.get_deltas(sources, targets), sources), targets, rtol=1e-5, atol=1e-4)


def test_each_class_moves_the_box_by_its_own_offsets(transform):
    sources = random_boxes(3)
    targets = [random_boxes(3, seed=seed) for seed in (1, 2)]
    moved = transform.apply_deltas(torch.cat([transform.get_deltas(sources, target) for target in targets], dim=1), sources)
    assert_close(moved, torch.cat(targets, dim=1), rtol=1e-5, atol=1e-4)
    assert transform.apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)


def test_growth_is_limited_to_1000_over_16(transform):
    grown = transform.apply_deltas(torch.tensor([[0.0, 0, 500, 500]]), torch.tensor([[0.0, 0, 16, 16]]))
    assert_close(grown, torch.tensor([[8.0 - 500, 8 - 500, 8 + 500, 8 + 500]]))


def test_boxes_are_decoded_in_float32(transform):
    moved = transform.apply_deltas(torch.zeros(2, 4, dtype=torch.bfloat16), random_boxes(2).double())
    assert moved.dtype == torch.float32
    assert_close(moved, random_boxes(2))


def test_a_source_box_without_width_is_refused(transform):
    with pytest.raises(AssertionError):
        transform.get_deltas(torch.zeros(1, 4), torch.ones(1, 4))


def test_both_backends_move_boxes_alike(subset, real):
    sources, targets, moves = random_boxes(50), random_boxes(50, seed=1), torch.randn(50, 12, generator=torch.manual_seed(0)) * 5
    ours, theirs = (each.get("modeling.box_regression").Box2BoxTransform(WEIGHTS) for each in (subset, real))
    assert_close(ours.get_deltas(sources, targets), theirs.get_deltas(sources, targets), rtol=1e-6, atol=1e-5)
    assert_close(ours.apply_deltas(moves, sources), theirs.apply_deltas(moves, sources), rtol=1e-6, atol=1e-5)
    assert ours.scale_clamp == theirs.scale_clamp


def test_beta_0_is_the_sum_of_absolute_differences():
    transform, sources, targets = Box2BoxTransform(WEIGHTS), random_boxes(6), random_boxes(6, seed=1)
    deltas = torch.randn(6, 4, generator=torch.manual_seed(0))
    expected = (deltas - transform.get_deltas(sources, targets)).abs().sum()
    assert_close(box_regression_loss(transform, sources, deltas, targets, "smooth_l1", 0.0), expected)
    assert box_regression_loss(transform, sources, deltas, targets, "smooth_l1", 1.0) < expected


@pytest.mark.parametrize("loss_type", ["smooth_l1", "giou", "diou", "ciou"])
def test_the_loss_of_the_right_offsets_is_zero_and_no_boxes_give_zero_with_a_gradient(loss_type):
    transform, sources, targets = Box2BoxTransform(WEIGHTS), random_boxes(6), random_boxes(6, seed=1)
    right = transform.get_deltas(sources, targets)
    assert box_regression_loss(transform, sources, right, targets, loss_type, 0.0).abs() < 1e-4
    assert box_regression_loss(transform, sources, right + 0.5, targets, loss_type, 0.0) > 0.1
    nothing = torch.zeros(0, 4, requires_grad=True)
    loss = box_regression_loss(transform, torch.zeros(0, 4), nothing, torch.zeros(0, 4), loss_type, 0.0)
    loss.backward()
    assert loss == 0 and nothing.grad.shape == (0, 4)


def test_giou_compares_the_boxes_that_offsets_give():
    transform, sources, targets = Box2BoxTransform(WEIGHTS), random_boxes(6), random_boxes(6, seed=1)
    expected = giou_loss(sources, targets, reduction="sum")
    assert_close(box_regression_loss(transform, sources, torch.zeros(6, 4), targets, "giou", 0.0), expected)


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match=r"'l3'.*smooth_l1"):
        box_regression_loss(Box2BoxTransform(WEIGHTS), *[random_boxes(2)] * 3, "l3", 0.0)
