"""The loss of invariant information clustering, of whole views and of cells.

Letters: N images of this process, K clusters, (h, w) cells of a view.
"""

import torch
from torch.nn import functional as F

from detcon_d2.losses.gather import gather_processes

_LEAST = torch.finfo(torch.float32).eps


def joint_distribution(z1: torch.Tensor, z2: torch.Tensor, mask: torch.Tensor, shift: tuple[int, int] = (0, 0)) -> torch.Tensor:
    """The joint distribution of the clusters of two views over all their cells and all processes (Ji et al. 2019, equation 3).

    Args:
        z1, z2: (N, K, h, w) floating, probabilities of the clusters; cell (y, x) of both shows the same place.
        mask: (N, h, w), 1 where both views have the place.
        shift: cell (y, x) of view 1 meets (y + shift[0], x + shift[1]) of view 2.

    Returns:
        (K, K) symmetric, float32 or float64, of sum 1.
    """
    with torch.autocast(z1.device.type, enabled=False):
        dtype = torch.promote_types(z1.dtype, torch.float32)
        z1, z2, mask = z1.to(dtype), z2.to(dtype), mask.to(dtype)
        (y1, y2), (x1, x2) = (_overlap(size, by) for size, by in zip(z1.shape[2:], shift, strict=True))
        both = mask[:, y1, x1] * mask[:, y2, x2]
        sums = torch.einsum("nihw,njhw,nhw->ij", z1[:, :, y1, x1], z2[:, :, y2, x2], both)
        sums = gather_processes(sums).sum(0)
        sums = (sums + sums.T) / 2
        return sums / sums.sum().clamp(min=_LEAST)


def _overlap(size: int, by: int) -> tuple[slice, slice]:
    return slice(max(-by, 0), size - max(by, 0)), slice(max(by, 0), size + min(by, 0))


def information_loss(joint: torch.Tensor, *, entropy_weight: float = 1.0) -> torch.Tensor:
    """Minus the mutual information of the two views' clusters, whose marginal entropies have a weight (``IID_losses.py`` of the authors)::

        - sum over i, j of P_ij (ln P_ij - lambda ln P_i - lambda ln P_j)

    With lambda 1 it is in [-ln K, 0]: -ln K where both views always agree and all clusters are equally frequent, 0 where they are
    independent.

    Args:
        joint: (K, K) of :func:`joint_distribution`. Entries below 1.2e-7 count as that, so that the gradient is finite.
        entropy_weight: lambda > 0; above 1 it favours clusters of equal size.
    """
    rows, columns = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    logs = [p.clamp(min=_LEAST).log() for p in (joint, rows, columns)]
    return -(joint * (logs[0] - entropy_weight * (logs[1] + logs[2]))).sum()


def align_cells(maps: torch.Tensor, boxes: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of one crop at the places of another crop's cells, bilinear between the centres of cells.

    Args:
        maps: (N, K, h, w) floating, of crops with ``boxes``.
        boxes, other: (N, 4) x1, y1, x2, y2 in pixels of the image; x1 > x2 for a flipped view.

    Returns:
        (N, K, h, w) at the cells of ``other``, and the mask (N, h, w) of cells whose centre is inside ``boxes``.
    """
    height, width = maps.shape[2:]
    down, right = ((torch.arange(size, device=maps.device, dtype=boxes.dtype) + 0.5) / size for size in (height, width))
    places = []
    for axis, steps in ((0, right), (1, down)):
        place = other[:, axis, None] + steps * (other[:, axis + 2] - other[:, axis])[:, None]
        places.append((place - boxes[:, axis, None]) / (boxes[:, axis + 2] - boxes[:, axis])[:, None])
    x, y = places[0][:, None].expand(-1, height, -1), places[1][:, :, None].expand(-1, -1, width)
    grid = torch.stack([2 * x - 1, 2 * y - 1], dim=3).to(maps.dtype)
    inside = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False), inside
