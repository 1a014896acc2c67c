"""The loss of tracking by colour: each cell of a frame points to cells of other frames and copies their colours.

Letters: N clips, P cells of the target frame, Q cells of all its reference frames, D dimensions, K colours.
"""

import torch
from torch.nn import functional as F

from detcon_d2.losses.checks import check_positive, promote


def pointer(target: torch.Tensor, references: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """Where each cell of the target points to: log-softmax over the reference cells of ``f_i . f_j / temperature`` (Vondrick et al. 2018,
    equation 2).

    Args:
        target: (N, P, D) floating.
        references: (N, Q, D) floating.
        temperature: > 0.

    Returns:
        Log-probabilities (N, P, Q) in at least float32, under autocast too.

    Raises ValueError: other shapes or temperatures.
    """
    if target.ndim != 3 or references.ndim != 3 or len(target) != len(references) or target.shape[2] != references.shape[2]:
        found = f"{tuple(target.shape)} and {tuple(references.shape)}"
        raise ValueError(f"target and references have shapes {found}; expected (N, P, D) and (N, Q, D).")
    check_positive(temperature=temperature)
    with torch.autocast(target.device.type, enabled=False):
        target, references = promote(target, references)
        return (target @ references.mT / temperature).log_softmax(2)


def copied_colors(log_pointer: torch.Tensor, reference_colors: torch.Tensor, num_colors: int) -> torch.Tensor:
    """The distribution of colours that each target cell copies, (N, P, K): the mean of those that it points to (equation 1).

    Args:
        log_pointer: (N, P, Q) of :func:`pointer`.
        reference_colors: (N, Q) int64 in 0..K-1.
        num_colors: K.
    """
    return log_pointer.exp() @ F.one_hot(reference_colors, num_colors).to(log_pointer.dtype)


def tracking_loss(log_pointer: torch.Tensor, target_colors: torch.Tensor, reference_colors: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the copied colours with the target's: minus the logarithm of the probability of pointing to a cell of the right
    colour, mean over all target cells. A cell whose colour no reference has counts as 0.

    Args:
        log_pointer: (N, P, Q) of :func:`pointer`.
        target_colors: (N, P) int64.
        reference_colors: (N, Q) int64.
    """
    right = target_colors[:, :, None] == reference_colors[:, None]
    # All probabilities together are 1: nothing to learn for a cell whose colour cannot be copied.
    allowed = right | ~right.any(2, keepdim=True)
    return -log_pointer.masked_fill(~allowed, -torch.inf).logsumexp(2).mean()
