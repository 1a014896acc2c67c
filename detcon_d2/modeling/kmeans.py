"""k-means over feature cells, and its regions in the views of an image: what learned regions (``methods.odin``) are computed by.

Letters: N images, C channels, (h, w) feature cells of the whole image, P = h * w, K regions, S pixels per side of a view.
"""

import torch
from torch.nn import functional as F


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
