"""PixPro's losses and its pixel propagation module (PPM).

Letters: N images of this process, C embedding dimensions, (h, w) cells of a map, P = h * w.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from detcon_d2.losses.checks import check_embeddings, check_positive, promote

_EPSILON = 1e-6


def pixpro_loss(
    query: torch.Tensor, key: torch.Tensor, coord_q: torch.Tensor, coord_k: torch.Tensor, *, pos_ratio: float = 0.7
) -> torch.Tensor:
    """Pull cells of two views together that show the same place of the image, in one direction (Xie et al. 2021; ``models/PixPro.py``).

    ::

        loss = -2 * mean over N of sum over positive pairs (i, j) of query_i . key_j / (number of pairs + 1e-6)

    The positive pairs are those of :func:`positive_cells`. An image without one contributes 0 and counts in the mean. No gradient goes to
    the keys. PixPro's loss is the sum of both directions, in [-4, 4]. Nothing is gathered: the mean of the losses over processes with
    equal batches is the loss of the whole batch.

    Args:
        query: (N, C, h, w) floating, normalised along C: the trained network's map of one view, after PPM.
        key: (N, C, h, w) floating, normalised along C: the target network's map of the other view.
        coord_q, coord_k: (N, 4) floating, boxes x1, y1, x2, y2 of the two views in their image; x1 > x2 if the view is flipped.
        pos_ratio: > 0.

    Returns:
        Scalar in [-2, 2], float64 if a map is float64, otherwise float32; computed in that precision, under autocast too.

    Raises:
        ValueError: for shapes or dtypes other than these, or a pos_ratio <= 0.
    """
    check_embeddings("(N, C, h, w)", query=query, key=key)
    check_embeddings("(N, 4)", coord_q=coord_q, coord_k=coord_k)
    if coord_q.shape != (len(query), 4):
        raise ValueError(f"coord_q has shape {tuple(coord_q.shape)}; expected ({len(query)}, 4), one box for each map of query.")
    check_positive(pos_ratio=pos_ratio)
    positive = positive_cells(coord_q, coord_k, tuple(query.shape[2:]), pos_ratio)
    with torch.autocast(query.device.type, enabled=False):
        query, key = promote(query.flatten(2), key.detach().flatten(2))
        similarity = query.transpose(1, 2) @ key
        positive = positive.to(similarity.dtype)
        return -2 * ((similarity * positive).sum(dim=(1, 2)) / (positive.sum(dim=(1, 2)) + _EPSILON)).mean()


def positive_cells(coord_q: torch.Tensor, coord_k: torch.Tensor, size: tuple[int, int], pos_ratio: float) -> torch.Tensor:
    """Pairs of cells whose centres are closer than ``pos_ratio`` times the larger of the two cells' diagonals: bool (N, P, P).

    Args:
        coord_q, coord_k: (N, 4) boxes, as in :func:`pixpro_loss`.
        size: (h, w) of both maps; cells are counted row by row.
        pos_ratio: > 0.
    """
    (centers_q, diagonal_q), (centers_k, diagonal_k) = (_cells(*promote(coord), size) for coord in (coord_q, coord_k))
    distance = torch.cdist(centers_q, centers_k, compute_mode="donot_use_mm_for_euclid_dist")
    return distance / torch.maximum(diagonal_q, diagonal_k).view(-1, 1, 1) < pos_ratio


def _cells(coord: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (N, P, 2) and the diagonal (N,) of the cells of boxes (N, 4). In a flipped box the cells' width is negative."""
    height, width = size
    start, extent = coord[:, :2], coord[:, 2:] - coord[:, :2]
    rows, columns = torch.meshgrid(*(torch.arange(n, device=coord.device) for n in size), indexing="ij")
    cell = extent / torch.tensor([width, height], device=coord.device)
    offsets = torch.stack([columns, rows], dim=-1).flatten(0, 1) + 0.5
    return start.unsqueeze(1) + offsets * cell.unsqueeze(1), torch.linalg.vector_norm(cell, dim=1)


def pixpro_instance_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """PixPro's instance branch in one direction: ``-2 * mean over N of prediction . target`` (``models/PixPro.py``, regression_loss).

    No gradient goes to the targets. The branch's loss is the sum of both directions.

    Args:
        prediction, target: (N, C) floating, normalised: pooled embeddings of the trained network and, for the other view, of the target
            network.

    Returns:
        Scalar in [-2, 2], float64 if an input is float64, otherwise float32; computed in that precision, under autocast too.

    Raises:
        ValueError: for shapes or dtypes other than these.
    """
    check_embeddings("(N, C)", prediction=prediction, target=target)
    with torch.autocast(prediction.device.type, enabled=False):
        prediction, target = promote(prediction, target.detach())
        return -2 * torch.linalg.vecdot(prediction, target).mean()


def propagate_pixels(x: torch.Tensor, transform: Callable[[torch.Tensor], torch.Tensor], *, power: float = 2.0) -> torch.Tensor:
    """PPM: each cell becomes a sum of all cells of its image, weighted by similarity (Xie et al. 2021; ``models/PixPro.py``, featprop).

    ``y_i = sum_j max(cos(x_i, x_j), 0)^power * l2(transform(x)_j)``, over all P cells j, i among them, with l2(x) = x / max(|x|, 1e-12).
    For power < 1, 1e-6 is added to the similarity before the power, because the derivative is infinite at 0. The result is not normalised,
    but :func:`pixpro_loss` expects maps that are.

    Args:
        x: (N, C, h, w) floating, projections before normalisation.
        transform: maps ``x`` to (N, C', h, w), in the precision that is set outside: a 1x1 convolution, or the identity.
        power: > 0.

    Returns:
        (N, C', h, w), float64 for float64 ``x``, otherwise float32.

    Raises:
        ValueError: for a shape or dtype other than these, or a power <= 0.
    """
    check_embeddings("(N, C, h, w)", x=x)
    check_positive(power=power)
    values = transform(x)
    with torch.autocast(x.device.type, enabled=False):
        x, values = promote(x, values)
        cells = F.normalize(x, dim=1).flatten(2)
        similarity = (cells.transpose(1, 2) @ cells).clamp(min=0)
        weights = (similarity + _EPSILON if power < 1 else similarity) ** power
        return (F.normalize(values, dim=1).flatten(2) @ weights).unflatten(2, x.shape[2:])
