"""k-means against its definition; carrying regions to views against the loader's own geometry."""

from itertools import accumulate

import numpy as np
import pytest
import torch

from detcon_d2.masks.cells import label_map_to_cells
from detcon_d2.modeling.kmeans import carry_to_view, spherical_kmeans
from detcon_d2.modeling.regions import downsample_label_map
from detcon_d2.views.geometry import ViewAugmentation
from detcon_d2.views.resize import nearest_indices


def blobs(n: int = 3, clusters: int = 4, members: int = 6, channels: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, clusters * members, channels) of random lengths around orthogonal directions, shuffled, and their true clusters."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.stack([torch.randperm(clusters * members, generator=generator) % clusters for _ in range(n)])
    noise = 0.05 * torch.randn(n, clusters * members, channels, generator=generator)
    lengths = 0.1 + 10 * torch.rand(n, clusters * members, 1, generator=generator)
    return (torch.eye(channels)[truth] + noise) * lengths, truth


def draws(n: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed))


def test_separate_directions_are_found_whatever_their_lengths():
    features, truth = blobs()
    found = spherical_kmeans(features, 4, draws(3, 4), 10)
    same = truth[:, :, None] == truth[:, None, :]
    assert torch.equal(found[:, :, None] == found[:, None, :], same)


def test_it_is_the_algorithm_written_out():
    features = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(1))
    uniform = draws(2, 5)
    found = spherical_kmeans(features, 5, uniform, 3)
    for image, numbers, ids in zip(features, uniform, found, strict=True):
        points = image / image.norm(dim=1, keepdim=True)
        distance, centers = torch.ones(30, dtype=torch.float64), []
        for u in numbers.double():
            chosen = next(index for index, total in enumerate(accumulate(distance.tolist())) if total > u * distance.sum())
            centers.append(points[chosen])
            distance = torch.stack([((points - center) ** 2).sum(1) for center in centers]).amin(0).double()
        centers = torch.stack(centers)
        for _ in range(3):
            nearest = (points @ centers.T).argmax(1)
            for k in range(5):
                if (nearest == k).any():
                    mean = points[nearest == k].mean(0)
                    centers[k] = mean / mean.norm()
        assert torch.equal((points @ centers.T).argmax(1), ids)


@pytest.mark.parametrize("distinct", [1, 3])
def test_fewer_distinct_cells_than_clusters_leave_clusters_out(distinct):
    features = torch.eye(8)[torch.arange(20) % distinct].expand(2, -1, -1)
    found = spherical_kmeans(features, 6, draws(2, 6), 10)
    for ids in found:
        assert len(ids.unique()) == distinct
        assert all(torch.equal(ids[i], ids[i % distinct]) for i in range(20))


def test_zero_features_are_one_region():
    assert len(spherical_kmeans(torch.zeros(1, 9, 4), 3, draws(1, 3), 5).unique()) == 1


def test_as_many_clusters_as_cells_give_each_its_own():
    features = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(4))
    assert len(spherical_kmeans(features, 12, draws(1, 12), 5).unique()) == 12


def test_half_precision_features_are_clustered_in_float32_under_autocast():
    half = blobs()[0].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = spherical_kmeans(half, 4, draws(3, 4), 10)
    assert torch.equal(found, spherical_kmeans(half.float(), 4, draws(3, 4), 10))


@pytest.mark.parametrize(
    "features, numbers, k, message",
    [((2, 9), (2, 3), 3, "features has shape"), ((2, 9, 4), (2, 2), 3, "at least 3"), ((2, 9, 4), (2, 10), 10, r"expected 1\.\.9")],
)
def test_other_shapes_are_refused(features, numbers, k, message):
    with pytest.raises(ValueError, match=message):
        spherical_kmeans(torch.rand(features), k, torch.rand(numbers), 1)


@pytest.mark.parametrize("cells", [(1, 1), (7, 7), (5, 3), (14, 14)])
def test_carried_regions_equal_the_loaders_crop_of_the_enlarged_map(cells):
    """To the pixel, and therefore also in the feature cells: random images, from one pixel to larger than the view, and random crops."""
    rng = np.random.default_rng(sum(cells))
    geometry = ViewAugmentation(size=37, crop_area=(0.05, 1.0), crop_aspect=(0.5, 2.0), flip_prob=0.5, interpolation="bicubic_tf")
    sizes = [(1, 1), (1, 60), (90, 2), (37, 37), *((int(h), int(w)) for h, w in rng.integers(3, 300, (40, 2)))]
    regions = rng.integers(0, 256, (len(sizes), *cells))
    views = [geometry.sample_view(rng, height, width) for height, width in sizes]
    found = carry_to_view(
        torch.from_numpy(regions),
        torch.from_numpy(np.stack([view.box for view in views])),
        torch.tensor([view.flip for view in views]),
        torch.tensor(sizes),
        (37, 37),
    )
    small = downsample_label_map(found, (3, 3)).numpy()
    for n, (view, (height, width)) in enumerate(zip(views, sizes, strict=True)):
        enlarged = regions[n][np.ix_(nearest_indices(cells[0], height), nearest_indices(cells[1], width))]
        expected = view.apply_segmentation(enlarged)
        np.testing.assert_array_equal(found[n].numpy(), expected)
        np.testing.assert_array_equal(small[n], label_map_to_cells(expected, (3, 3)))
