"""The triplet loss with semi-hard negatives.

Letters: N images of this process, R processes, V views of an image, B = N * R * V views, D embedding dimensions.
"""

import torch
from torch.nn import functional as F

from detcon_d2.losses.checks import check_embeddings, check_positive, check_processes, promote
from detcon_d2.losses.gather import gather_processes, process_rank_and_count


def triplet_distances(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances of each anchor to its positives and to the negative that is chosen for each (Schroff et al. 2015, section 3.2).

    Anchors are the views of this process, positives the other views of the same image, negatives the views of all other images of all
    processes. For an anchor and a positive the negative is the nearest that is farther than the positive; if there is none, the farthest.

    Args:
        z: (N, V, D) floating, N * R >= 2 and V >= 2; rows are normalised here.

    Returns:
        Positive and negative distances, (N, V, V - 1) each, in [0, 4], float64 for float64, otherwise float32.

    Raises:
        ValueError: for other shapes or dtypes, or different ones in the processes (raised in all of them).
    """
    check_embeddings("(N, V, D)", z=z)
    with torch.autocast(z.device.type, enabled=False):
        (z,) = promote(z)
        z = F.normalize(z, dim=2)
        check_processes(z)
        images, views, _ = z.shape
        targets = gather_processes(z).flatten(0, 2)
        total = len(targets) // views
        if views < 2 or total < 2:
            raise ValueError(f"z has {total} images of {views} views over all processes; expected at least 2 of each.")
        distances = (2 - 2 * z.flatten(0, 1) @ targets.T).clamp(min=0).view(images, views, total, views)
        first = process_rank_and_count()[0] * images
        own = torch.arange(images, device=z.device)
        # (N, V, V) with the anchor itself on the diagonal -> (N, V, V - 1)
        same = distances[own, :, first + own]
        off = ~torch.eye(views, dtype=torch.bool, device=z.device)
        positive = same[:, off].view(images, views, views - 1)
        other = torch.ones(images, total, dtype=torch.bool, device=z.device)
        other[own, first + own] = False
        negatives = distances.transpose(1, 2)[other].view(images, total - 1, views, views).transpose(1, 2).flatten(2)
        farther = negatives[:, :, None] > positive[..., None]
        nearest = negatives[:, :, None].masked_fill(~farther, torch.inf).amin(3)
        return positive, torch.where(farther.any(3), nearest, negatives.amax(2, keepdim=True))


def triplet_loss(z: torch.Tensor, *, margin: float = 0.5) -> torch.Tensor:
    """``mean over anchors and positives of max(0, positive - negative + margin)``, of :func:`triplet_distances`."""
    check_positive(margin=margin)
    positive, negative = triplet_distances(z)
    return (positive - negative + margin).clamp(min=0).mean()
