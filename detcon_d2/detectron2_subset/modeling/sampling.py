"""Random balanced subsets of labelled boxes."""

import torch

from ..layers import nonzero_tuple


def subsample_labels(labels: torch.Tensor, num_samples: int, positive_fraction: float, bg_label: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (int64 vectors) of random positives and negatives, together at most ``num_samples``.

    ``labels`` (N,): ``bg_label`` is negative, -1 ignored, anything else positive. At most ``positive_fraction`` of ``num_samples`` are
    positives; negatives fill the rest. Two ``torch.randperm`` on the device of the labels, positives first.
    """
    negatives = labels == bg_label
    positives = (labels != -1) & ~negatives
    chosen_positives = _choose(positives, int(num_samples * positive_fraction))
    return chosen_positives, _choose(negatives, num_samples - len(chosen_positives))


def _choose(candidates: torch.Tensor, limit: int) -> torch.Tensor:
    (positions,) = nonzero_tuple(candidates)
    return positions[torch.randperm(len(positions), device=positions.device)[:limit]]
