"""The loss of contrastive predictive coding on a grid of patches.

Letters: N images of this process, R processes, G patches along each side, D dimensions, K distances.
"""

import torch
from torch.nn import functional as F

from detcon_d2.losses.checks import check_embeddings, check_processes, promote
from detcon_d2.losses.gather import gather_processes, process_rank_and_count


def predicted_rows(predictions: torch.Tensor, first: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each distance the predictions that have a target, (N, rows, G, D), and the rows of their targets, int64 (rows,).

    Args:
        predictions: (N, K, G, G, D); entry [n, k, y, x] predicts the patch in row ``y + first + k`` of the same column.
        first: the smallest distance.
    """
    side = predictions.shape[2]
    distances = [(number, first + number) for number in range(predictions.shape[1]) if first + number < side]
    rows = torch.arange(side, device=predictions.device)
    return [(predictions[:, number, : side - distance], rows[distance:]) for number, distance in distances]


def cpc_loss(predictions: torch.Tensor, targets: torch.Tensor, *, first: int) -> torch.Tensor:
    """Find the patch that is predicted among all patches of all images of all processes (van den Oord et al. 2018, equation 4).

    For the dot products of a prediction with all R N G G targets the loss is the cross-entropy with the right one; the mean over all
    predictions that have a target. Without any information it is ln(R N G G).

    Args:
        predictions: as for :func:`predicted_rows`.
        targets: (N, G, G, D).
        first: as for :func:`predicted_rows`; < G.

    Returns:
        Scalar >= 0, float64 for float64 embeddings, otherwise float32; computed in that precision, under autocast too.

    Raises:
        ValueError: for shapes or dtypes other than these, or different ones in the processes (raised in all of them).
    """
    check_embeddings("(N, K, G, G, D)", predictions=predictions)
    check_embeddings("(N, G, G, D)", targets=targets)
    images, side = len(targets), targets.shape[1]
    if not 0 < first < side:
        raise ValueError(f"first is {first}; expected 1 to {side - 1}, as the grid has {side} rows.")
    with torch.autocast(targets.device.type, enabled=False):
        predictions, targets = promote(predictions, targets)
        check_processes(targets)
        everything = gather_processes(targets).flatten(0, 3)
        start = process_rank_and_count()[0] * images
        places = torch.arange(start * side * side, (start + images) * side * side, device=targets.device).view(images, side, side)
        losses, count = predictions.new_zeros(()), 0
        for rows, below in predicted_rows(predictions, first):
            losses = losses + F.cross_entropy(rows.flatten(0, 2) @ everything.T, places[:, below].flatten(), reduction="sum")
            count += places[:, below].numel()
        return losses / count
