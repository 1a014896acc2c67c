"""Losses of Deep InfoMax and AMDIM: a vector of an image has to tell the local features of its image from those of all others.

Letters: N images of this process, M of all processes, L locations, D dimensions.
"""

import math

import torch
from torch.nn import functional as F

from detcon_d2.losses.checks import check_positive, check_processes, promote
from detcon_d2.losses.gather import gather_processes, process_rank_and_count

MODES = ("nce", "jsd")
"""Estimators of mutual information: InfoNCE, and that of the Jensen-Shannon divergence."""


def location_scores(source: torch.Tensor, local: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Dot products of each image's vector with the locations of its own image, (N, L), and with those of all images, (N, M, L), where its
    own are -inf.

    Args:
        source: (N, D) floating.
        local: (N, L, D) floating; it is gathered over processes, in a collective.

    Returns:
        Both in at least float32, under autocast too.

    Raises ValueError: other shapes.
    """
    if source.dim() != 2 or local.dim() != 3 or source.shape != local[:, 0].shape:
        raise ValueError(f"source and local have shapes {tuple(source.shape)} and {tuple(local.shape)}; expected (N, D) and (N, L, D).")
    check_processes(local)
    with torch.autocast(source.device.type, enabled=False):
        source, local = promote(source, local)
        first = process_rank_and_count()[0] * len(source)
        every = torch.einsum("nd,mld->nml", source, gather_processes(local).flatten(0, 1))
        own = torch.arange(len(source), device=source.device)
        is_own = torch.zeros_like(every, dtype=torch.bool)
        is_own[own, own + first] = True
        return every[own, own + first], every.masked_fill(is_own, -torch.inf)


def nce(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """InfoNCE of :func:`location_scores`: the mean over images and locations of -log of exp(own) / (exp(own) + sum of exp(negatives)).

    Zero scores give ln(1 + (M - 1) L). The mean over processes is the loss of the whole batch.
    """
    others = negative.flatten(1).logsumexp(1, keepdim=True)
    return (torch.logaddexp(positive, others) - positive).mean()


def jsd(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Minus the Jensen-Shannon estimate of :func:`location_scores` (Hjelm et al. 2019, equation 4): mean over negatives of
    softplus(-u) + u - ln 2 = softplus(u) - ln 2, minus the mean over own locations of ln 2 - softplus(-u).

    Zero scores give 0. The mean over processes is the loss of the whole batch.
    """
    others = F.softplus(negative[negative > -torch.inf]).mean() - math.log(2)
    return others - (math.log(2) - F.softplus(-positive)).mean()


def clipped(scores: torch.Tensor, limit: float) -> torch.Tensor:
    """``limit * tanh(scores / limit)``: scores of any shape, softly in (-limit, limit); -inf stays (Bachman et al. 2019, section 3.3)."""
    check_positive(limit=limit)
    return torch.where(scores > -torch.inf, limit * (scores.clamp(min=-1e6) / limit).tanh(), scores)
