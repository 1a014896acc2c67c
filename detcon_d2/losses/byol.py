"""BYOL's regression loss."""

import torch

from detcon_d2.losses.checks import check_embeddings, promote
from detcon_d2.losses.tiles import clamped_norm


def byol_loss(prediction1: torch.Tensor, prediction2: torch.Tensor, target1: torch.Tensor, target2: torch.Tensor) -> torch.Tensor:
    """Regress each view's prediction to the target network's projection of the other view (Grill et al. 2020; ``byol/utils/helpers.py``).

    ::

        l2(x) = x / sqrt(max(sum(x^2), 1e-12))
        loss  = mean over N of |l2(prediction1) - l2(target2)|^2 + |l2(prediction2) - l2(target1)|^2

    This is the sum of both directions. No gradient goes to the targets. Nothing is gathered: the mean of the losses over processes with
    equal batches is the loss of the whole batch.

    Args:
        prediction1, prediction2: (N, D) floating, of the online network for views 1 and 2, before normalisation.
        target1, target2: (N, D) floating, projections of the target network for views 1 and 2, before normalisation.

    Returns:
        Scalar in [0, 8], float64 if an input is float64, otherwise float32; computed in that precision, under autocast too.

    Raises:
        ValueError: for shapes or dtypes other than these.
    """
    check_embeddings("(N, D)", prediction1=prediction1, prediction2=prediction2, target1=target1, target2=target2)
    with torch.autocast(prediction1.device.type, enabled=False):
        prediction1, prediction2, target1, target2 = promote(prediction1, prediction2, target1.detach(), target2.detach())
        predictions, targets = torch.stack([prediction1, prediction2]), torch.stack([target2, target1])
        difference = predictions / clamped_norm(predictions) - targets / clamped_norm(targets)
        return difference.square().sum(dim=(0, 2)).mean()
