"""The is-it-learning figures."""

import pytest
import torch

from detcon_d2.modeling import metrics
from detcon_d2.modeling.metrics import mean_distinct_regions, positive_fraction, projection_std, region_retrieval_top1

NONE = 65535


@pytest.mark.parametrize("dimensions", [16, 256])
def test_projection_std_is_one_for_uniform_directions_of_any_length(dimensions):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(256, 16, dimensions, generator=generator) * torch.rand(256, 16, 1, generator=generator)
    assert projection_std(rows).item() == pytest.approx(1.0, abs=0.02)


def test_projection_std_is_zero_for_collapsed_rows():
    direction = torch.randn(1, 1, 32)
    assert projection_std(direction * torch.rand(8, 4, 1).add(0.5)).item() == pytest.approx(0.0, abs=1e-5)


def test_projection_std_leaves_rows_without_region_out():
    rows = torch.randn(4, 3, 8, dtype=torch.bfloat16)
    ids = torch.zeros(4, 3, dtype=torch.int64)
    ids[1:, 2] = NONE
    expected = projection_std(rows[ids != NONE][None])
    assert torch.equal(projection_std(rows, ids), expected) and expected.dtype == torch.float32


def test_positive_fraction_counts_rows_of_both_views_with_a_region():
    ids1 = torch.tensor([[0, 0, 1, NONE], [5, 6, 7, 8]])
    ids2 = torch.tensor([[0, 2, NONE, NONE], [NONE] * 4])
    # With a positive: two rows of view 1 and one of view 2, among seven and two.
    assert positive_fraction(ids1, ids2).item() == pytest.approx(3 / 9)
    assert positive_fraction(ids2, ids1).item() == pytest.approx(3 / 9)
    assert positive_fraction(ids1, ids1).item() == 1


def test_distinct_regions_are_counted_without_no_region():
    cells = torch.tensor([[[0, 0], [300, NONE]], [[NONE, NONE], [NONE, NONE]], [[4, 3], [2, 1]]], dtype=torch.int32)
    assert mean_distinct_regions(cells).item() == pytest.approx((2 + 0 + 4) / 3)


@pytest.fixture
def separable():
    """3 images, 4 regions each, one direction a region; view 2 in another order."""
    directions = torch.eye(12).view(3, 4, 12)
    order = torch.tensor([[1, 0, 3, 2], [0, 1, 2, 3], [3, 2, 1, 0]])
    ids1 = torch.arange(4).expand(3, 4)
    return directions, torch.stack([d[o] for d, o in zip(directions, order)]), ids1, order


@pytest.mark.parametrize("chunk", [1024, 5])
def test_retrieval_is_one_where_the_same_region_is_nearest(separable, chunk, monkeypatch):
    monkeypatch.setattr(metrics, "_CHUNK", chunk)
    assert region_retrieval_top1(*separable).item() == 1


def test_retrieval_needs_the_same_image_and_the_same_id(separable):
    pred, target, ids1, ids2 = separable
    assert region_retrieval_top1(pred, target.roll(1, 0), ids1, ids2.roll(1, 0)).item() == 0
    assert region_retrieval_top1(pred, target, ids1, 3 - ids2).item() == 0


def test_retrieval_counts_rows_with_a_positive_and_ignores_keys_without_region(separable):
    pred, target, ids1, ids2 = (x.clone() for x in separable)
    ids1[0, 0], ids2[1, 1] = NONE, NONE
    # The anchor of image 1, id 1 has no positive left; one key would be nearest to an anchor of image 2, but has no region.
    target[1, 1] = pred[2, 0] * 2
    assert region_retrieval_top1(pred, target, ids1, ids2).item() == 1
    target[0, 0] = -target[0, 0]
    assert region_retrieval_top1(pred, target, ids1, ids2).item() == pytest.approx(9 / 10)


def test_figures_are_zero_without_a_valid_row_and_never_carry_gradients():
    pred = torch.randn(2, 3, 4, requires_grad=True)
    none, other = torch.full((2, 3), NONE), torch.ones(2, 3, dtype=torch.int64)
    figures = [
        projection_std(pred, none),
        positive_fraction(none, none),
        mean_distinct_regions(none[:, :, None]),
        region_retrieval_top1(pred, pred, none, none),
        region_retrieval_top1(pred, pred, none, other),
        region_retrieval_top1(pred, pred, other, none),
        region_retrieval_top1(pred, pred, other, other + 1),
    ]
    assert [figure.item() for figure in figures] == [0.0] * len(figures)
    assert not projection_std(pred).requires_grad and not region_retrieval_top1(pred, pred, other, other).requires_grad
