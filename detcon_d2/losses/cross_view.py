"""Cross-entropy between soft labels of some views and predictions of the others, which SwAV and DINO share."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def cross_view_entropy(logits: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over all pairs (a, v) with v != a of ``mean over N of -sum_k labels[a] * log softmax(logits[v])``.

    Args:
        logits: of V >= 2 views, (N, K) float32 or float64 each.
        labels: of the first A views, 1 <= A <= V, each like the logits, rows that sum to 1.

    Returns:
        Scalar >= 0 like the logits.
    """
    loss = logits[0].new_zeros(())
    for view, x in enumerate(logits):
        # Cross-entropy is linear in its labels: one softmax per view serves all of its pairs.
        if others := [y for other, y in enumerate(labels) if other != view]:
            loss = loss + F.cross_entropy(x, torch.stack(others).sum(0))
    return loss / (len(labels) * (len(logits) - 1))
