"""k-means over the feature cells of an image, and its regions in the image's views, for learned regions (``methods.odin``); k-means over
the features of all images, and what comes before and after, for ``methods.pretext.deep_cluster``.

Letters: N images, C channels, (h, w) feature cells of the whole image, P = h * w or other points, K regions or clusters, S pixels per side
of a view.
"""

import numpy as np
import torch
from torch.nn import functional as F

_CHUNK = 8192
_LEAST_VARIANCE = 1e-9
"""In parts of the largest: less is rounding."""
_PUSH = 1 / 1024
"""As in faiss's Clustering.cpp."""


@torch.no_grad()
def spherical_kmeans(features: torch.Tensor, num_clusters: int, draws: torch.Tensor, iterations: int) -> torch.Tensor:
    """Clusters the cells of each image separately by cosine similarity (Dhillon and Modha 2001).

    A cell joins the centre of highest cosine, in a tie the one of the lowest number. A centre becomes the l2-normalised mean of its cells,
    and stays as it is if it has none. The first centres are sampled as in k-means++ (Arthur and Vassilvitskii 2007) with 2 - 2 cos, the
    squared distance on the sphere. Everything is computed in float32, under autocast too, and without a host synchronisation.

    Args:
        features: (N, P, C) floating; normalised here.
        num_clusters: K in 1..P.
        draws: (N, >= K) floating in [0, 1): the k-th number picks the k-th centre.
        iterations: of Lloyd's algorithm, >= 0.

    Returns:
        (N, P) int64 in 0..K-1; a number without cells does not occur.

    Raises ValueError for other shapes, or more clusters than cells.
    """
    if features.ndim != 3 or draws.ndim != 2 or len(draws) != len(features) or draws.shape[1] < num_clusters:
        raise ValueError(
            f"features has shape {tuple(features.shape)}, draws {tuple(draws.shape)}; expected (N, P, C) and (N, at least {num_clusters})."
        )
    if not 1 <= num_clusters <= features.shape[1]:
        raise ValueError(f"num_clusters is {num_clusters}; expected 1..{features.shape[1]}, the number of cells.")
    with torch.autocast(features.device.type, enabled=False):
        points = F.normalize(features.float(), dim=-1)
        centers = _first_centers(points, num_clusters, draws)
        number = torch.arange(num_clusters, device=points.device)
        for _ in range(iterations):
            nearest = _nearest(points, centers)
            members = (nearest[:, None, :] == number[:, None]).to(points.dtype)
            moved = F.normalize(torch.bmm(members, points), dim=-1)
            centers = torch.where(members.any(-1, keepdim=True), moved, centers)
        return _nearest(points, centers)


def carry_to_view(
    cells: torch.Tensor, boxes: torch.Tensor, flips: torch.Tensor, image_sizes: torch.Tensor, view_size: tuple[int, int]
) -> torch.Tensor:
    """The label map of each image's view, from the regions of the image's cells.

    The same as ``ViewTransform.apply_segmentation`` of the cells enlarged to the image by half-pixel nearest neighbours, to the pixel; here
    batched, in integers, without the image-sized map.

    Args:
        cells: (N, h, w) region ids.
        boxes: (N, 4) x0, y0, x1, y1 of the crop in whole pixels of the image.
        flips: (N,) bool.
        image_sizes: (N, 2) height and width of the image in pixels.
        view_size: (H, W) of the view.

    Returns:
        (N, H, W), of the dtype of ``cells``.
    """
    x0, y0, x1, y1 = boxes.long().unbind(1)
    height, width = image_sizes.long().unbind(1)
    rows = _cells_of_pixels(y0, y1, height, cells.shape[1], view_size[0])
    columns = _cells_of_pixels(x0, x1, width, cells.shape[2], view_size[1])
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    image = torch.arange(len(cells), device=cells.device)[:, None, None]
    return cells[image, rows[:, :, None], columns[:, None, :]]


@torch.no_grad()
def kmeans(points: torch.Tensor, num_clusters: int, draws: torch.Tensor, iterations: int) -> torch.Tensor:
    """Clusters points of length 1 by Euclidean distance (Lloyd's algorithm), as the set that they are: their order does not matter.

    The first centres are sampled as in k-means++ (Arthur and Vassilvitskii 2007), of the points sorted by their first coordinate. A centre
    becomes the mean of its points. One without points becomes half of the largest cluster: both halves start at its mean, pushed apart
    by 1/1024 of it. Everything is computed in float32, under autocast too, on chunks of the points.

    Args:
        points: (P, C) floating; normalised here.
        num_clusters: K in 1..P.
        draws: (K,) floating in [0, 1): the k-th number picks the k-th centre.
        iterations: >= 0.

    Returns:
        (P,) int64 in 0..K-1; a number without points can occur where points are equal, and rarely else.

    Raises ValueError for another number of draws, or more clusters than points.
    """
    if not 1 <= num_clusters <= len(points) or draws.shape != (num_clusters,):
        raise ValueError(
            f"num_clusters is {num_clusters}, with draws of the shape {tuple(draws.shape)}; expected 1..{len(points)} clusters, the number "
            "of points, and a draw for each."
        )
    with torch.autocast(points.device.type, enabled=False):
        order = points[:, 0].argsort(stable=True)
        points = F.normalize(points.float(), dim=1)[order]
        centers = _first_centers(points[None], num_clusters, draws[None])[0]
        for _ in range(iterations):
            nearest = _nearest_euclidean(points, centers)
            sizes = nearest.bincount(minlength=num_clusters)
            sums = torch.zeros_like(centers)
            for some, ids in zip(points.split(_CHUNK), nearest.split(_CHUNK), strict=True):
                # On a GPU, additions by index have no fixed order.
                sums += F.one_hot(ids, num_clusters).to(some.dtype).T @ some
            centers = _split_largest(sums / sizes.clamp(min=1)[:, None], sizes.tolist())
        return torch.empty_like(order).scatter_(0, order, _nearest_euclidean(points, centers))


def second_moments(points: torch.Tensor) -> torch.Tensor:
    """Sums over points (P, C): (C + 1, C + 1) float64, with the products of coordinates, in the last row and column the coordinates, and in
    the corner the number of points. Those of parts of the data add up."""
    extended = torch.cat([points.double(), points.new_ones(len(points), 1, dtype=torch.float64)], 1)
    return extended.T @ extended


def whitening(moments: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The principal component analysis of points by their :func:`second_moments`, without random numbers.

    Returns:
        The mean (C,) and the matrix (C, at most ``dim``), both float32: ``(points - mean) @ matrix`` are the components of largest
        variance, in falling order, each with the variance 1, or 0 where the points have none.
    """
    mean = moments[-1, :-1] / moments[-1, -1]
    variances, axes = torch.linalg.eigh(moments[:-1, :-1] / moments[-1, -1] - mean.outer(mean))
    variances, axes = variances.flip(0)[:dim], axes.flip(1)[:, :dim]
    # An axis has two directions: the one of the largest entry.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    scale = torch.where(variances > _LEAST_VARIANCE * variances[0].clamp(min=0), variances.rsqrt(), 0.0)
    return mean.float(), (axes * scale).float()


def normalised_mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """I(a; b) / sqrt(H(a) H(b)) of two clusterings, (P,) integers >= 0: in [0, 1], 1 where they are the same up to the numbers of clusters.

    It is 1 also where both are a single cluster, and 0 where only one is (DeepCluster, section 4.1).
    """
    joint = np.unique(a.astype(np.int64) * (int(b.max()) + 1) + b, return_counts=True)[1]
    h_a, h_b, h_joint = (_entropy(counts) for counts in (np.bincount(a), np.bincount(b), joint))
    return float((h_a + h_b - h_joint) / np.sqrt(h_a * h_b)) if h_a and h_b else float(h_a == h_b)


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum()) if len(shares) > 1 else 0.0


def _nearest_euclidean(points: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """(P,): the nearest centre of each point, in a tie the one of the lowest number."""
    half = centers.square().sum(1) / 2
    return torch.cat([(some @ centers.T - half).argmax(1) for some in points.split(_CHUNK)])


def _split_largest(centers: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    push = torch.full_like(centers[0], _PUSH)
    push[1::2] = -_PUSH
    for empty in [number for number, size in enumerate(sizes) if not size]:
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        centers[empty], centers[largest] = centers[largest] * (1 + push), centers[largest] * (1 - push)
        sizes[empty] = sizes[largest] // 2
        sizes[largest] -= sizes[empty]
    return centers


def _first_centers(points: torch.Tensor, num_clusters: int, draws: torch.Tensor) -> torch.Tensor:
    """k-means++ on the sphere: (N, K, C)."""
    draws = draws.to(points.device, torch.float64)
    distance = points.new_ones(points.shape[:2], dtype=torch.float64)
    centers = []
    for k in range(num_clusters):
        cumulated = distance.cumsum(1)
        # If every cell equals a centre, the last cell is chosen again; its duplicate centre gets no cells.
        chosen = (cumulated <= draws[:, k, None] * cumulated[:, -1:]).sum(1).clamp(max=points.shape[1] - 1)
        center = points[torch.arange(len(points), device=points.device), chosen]
        centers.append(center)
        to_center = (2 - 2 * torch.bmm(points, center[:, :, None])[:, :, 0]).clamp(min=0).double()
        distance = to_center if k == 0 else torch.minimum(distance, to_center)
    return torch.stack(centers, 1)


def _nearest(points: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    # Of several maxima argmax gives the first.
    return torch.bmm(points, centers.transpose(1, 2)).argmax(-1)


def _cells_of_pixels(start: torch.Tensor, end: torch.Tensor, image: torch.Tensor, cells: int, pixels: int) -> torch.Tensor:
    """(N, pixels): the cell, along one axis, of each pixel of a view of the crop start..end."""
    centers = 2 * torch.arange(pixels, device=start.device) + 1
    source = start[:, None] + centers * (end - start)[:, None] // (2 * pixels)
    return (2 * source + 1) * cells // (2 * image[:, None])
