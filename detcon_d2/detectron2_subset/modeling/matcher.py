"""Assigning ground truth to predictions. Letters: M ground truths, N predictions."""

import torch


class Matcher:
    """Assigns to each prediction its best ground truth and a label, which depends on the quality of that match."""

    def __init__(self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False) -> None:
        """
        Args:
            thresholds: positive and increasing.
            labels: one more than thresholds. ``labels[i]`` (1 positive, 0 negative, -1 ignored) is the label of qualities from
                ``thresholds[i - 1]`` to below ``thresholds[i]``.
            allow_low_quality_matches: the best predictions for every ground truth are also positive, whatever their quality.

        AssertionError for other thresholds or labels.
        """
        assert all(low < high for low, high in zip([0.0, *thresholds], thresholds)), (
            f"Thresholds are positive and increase, found {thresholds}."
        )
        assert set(labels) <= {-1, 0, 1}, f"Labels are -1, 0 or 1, found {labels}."
        assert len(labels) == len(thresholds) + 1, f"{len(thresholds)} thresholds need {len(thresholds) + 1} labels, found {len(labels)}."
        self.thresholds = list(thresholds)
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(M, N) qualities >= 0 -> best ground truth (N,) int64 and label (N,) int8 of each prediction.

        Without ground truths or predictions: zeros and ``labels[0]``. AssertionError for another shape or negative or NaN qualities.
        """
        assert match_quality_matrix.dim() == 2, f"Qualities are of shape (M, N), found {tuple(match_quality_matrix.shape)}."
        labels = torch.tensor(self.labels, dtype=torch.int8, device=match_quality_matrix.device)
        if match_quality_matrix.numel() == 0:
            matches = match_quality_matrix.new_zeros(match_quality_matrix.shape[1], dtype=torch.int64)
            return matches, labels[0].expand(len(matches)).clone()
        assert (match_quality_matrix >= 0).all(), "Match qualities must be 0 or more."
        quality, matches = match_quality_matrix.max(dim=0)
        match_labels = labels[torch.bucketize(quality, quality.new_tensor(self.thresholds), right=True)]
        if self.allow_low_quality_matches:
            best = match_quality_matrix.amax(dim=1, keepdim=True)
            match_labels[(match_quality_matrix == best).any(dim=0)] = 1
        return matches, match_labels
