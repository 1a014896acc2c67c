"""Random balanced subsets of labelled boxes."""

import torch


def subsample_labels(labels: torch.Tensor, num_samples: int, positive_fraction: float, bg_label: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions (int64 vectors) of random positives and of random negatives, together at most ``num_samples``.

    ``labels`` (N,): ``bg_label`` is negative, -1 is ignored, anything else is positive. At most ``positive_fraction`` of ``num_samples``
    are positives; negatives fill the rest. Two calls of ``torch.randperm`` on the device of the labels, first for the positives.
    """
    negatives = labels == bg_label
    positives = (labels != -1) & ~negatives
    chosen_positives = _choose(positives, int(num_samples * positive_fraction))
    return chosen_positives, _choose(negatives, num_samples - len(chosen_positives))


def _choose(candidates: torch.Tensor, limit: int) -> torch.Tensor:
    positions = candidates.nonzero()[:, 0]
    return positions[torch.randperm(len(positions), device=positions.device)[:limit]]
