"""k-means over a data set, the whitening before it, and how much two clusterings agree."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from detcon_d2.modeling.kmeans import kmeans, normalised_mutual_information, second_moments, whitening


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draws(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(count: int = 300, clusters: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Features with a large common part and axes of very different lengths, as those of a network; and their clusters."""
    truth = torch.randperm(count, generator=torch.Generator().manual_seed(1)) % clusters
    points = 3 * F.one_hot(truth, 12).float() + 0.05 * numbers(count, 12)
    return points * torch.logspace(-0.5, 0.5, 12) + 20, truth


def components(points: torch.Tensor, dim: int = 5) -> torch.Tensor:
    mean, matrix = whitening(second_moments(points), dim)
    return F.normalize((points - mean) @ matrix, dim=1)


def test_planted_blobs_are_found_through_whitening_and_kmeans():
    points, truth = planted()
    found = kmeans(components(points), 6, draws(6), 20)
    assert normalised_mutual_information(found.numpy(), truth.numpy()) == pytest.approx(1)


def test_clusters_do_not_depend_on_the_order_of_the_images():
    # Without blobs, so that nothing but the algorithm decides.
    points = numbers(500, 12) + 5
    order = torch.randperm(500, generator=torch.Generator().manual_seed(3))
    assert torch.equal(kmeans(components(points), 20, draws(20), 20)[order], kmeans(components(points[order]), 20, draws(20), 20))


def test_components_are_uncorrelated_with_variance_one_and_moments_of_parts_add_up():
    points = numbers(400, 8) @ numbers(8, 8, seed=1) + 7
    moments = second_moments(points)
    torch.testing.assert_close(sum(second_moments(part) for part in points.split(150)), moments, rtol=1e-12, atol=1e-9)
    mean, matrix = whitening(moments, 5)
    found = (points - mean) @ matrix
    torch.testing.assert_close(found.T @ found / 400, torch.eye(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    # Against a decomposition of the centred points; an axis has a sign.
    _, values, axes = torch.linalg.svd((points - points.mean(0)).double(), full_matrices=False)
    expected = axes[:5].T / values[:5] * 400**0.5
    torch.testing.assert_close(matrix.abs().double(), expected.abs(), rtol=1e-3, atol=1e-4)


def test_directions_without_variance_are_zero():
    _, matrix = whitening(second_moments(numbers(4, 10)), 10)
    assert matrix[:, :3].any(0).all() and not matrix[:, 3:].any() and torch.isfinite(matrix).all()
    assert not whitening(second_moments(torch.ones(5, 4)), 4)[1].any()


def test_it_is_lloyds_algorithm_and_draws_decide():
    points = F.normalize(numbers(60, 4), dim=1)
    labels = kmeans(points, 5, draws(5), 50)
    centers = torch.stack([points[labels == k].mean(0) for k in range(5)])
    assert torch.equal(torch.cdist(points, centers).argmin(1), labels), "it has converged"
    assert torch.equal(labels, kmeans(7 * points, 5, draws(5), 50))
    assert not torch.equal(labels, kmeans(points, 5, draws(5, seed=1), 50))


def test_an_empty_cluster_takes_half_of_the_largest():
    # Two centres start at the same point, because all draws choose the last of few distinct points.
    points = torch.eye(8)[torch.arange(40) % 2] + 0.01 * numbers(40, 8)
    labels = kmeans(points.repeat(2, 1), 8, torch.full((8,), 0.999), 20)
    assert len(labels.unique()) == 8
    few = kmeans(torch.eye(4)[torch.arange(12) % 3], 6, draws(6), 20)
    assert len(few.unique()) == 3, "equal points are never apart"


@pytest.mark.parametrize(("clusters", "count"), [(0, 0), (11, 11), (3, 4)])
def test_more_clusters_than_points_or_other_draws_are_refused(clusters, count):
    with pytest.raises(ValueError, match=rf"num_clusters is {clusters}, with draws of the shape \({count},\); expected 1..10"):
        kmeans(numbers(10, 2), clusters, draws(count), 1)


def test_mutual_information_by_hand():
    a = np.array([0, 0, 1, 1])
    assert normalised_mutual_information(a, np.array([5, 5, 2, 2])) == pytest.approx(1)
    assert normalised_mutual_information(a, np.array([0, 1, 0, 1])) == pytest.approx(0)
    # I = ln 2, H = ln 2 and ln 4.
    assert normalised_mutual_information(a, np.arange(4)) == pytest.approx(0.5**0.5)
    assert (normalised_mutual_information(0 * a, 0 * a), normalised_mutual_information(a, 0 * a)) == (1, 0)
