"""Differences between methods over seeds, with their uncertainty."""

import statistics
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
"""Of the interval."""
_RESAMPLES = 10_000


class Gain(NamedTuple):
    """The mean of paired differences, its bootstrap interval, and the number of pairs. Of one pair ``low`` and ``high`` are NaN."""

    mean: float
    low: float
    high: float
    pairs: int

    def verdict(self) -> str:
        """Whether the values are higher than the baseline's: "yes" or "no" where the interval is on one side of zero, else "open"."""
        return "yes" if self.low > 0 else "no" if self.high < 0 else "open"


def paired_gain(values: Mapping[int, float], baseline: Mapping[int, float]) -> Gain | None:
    """The gain over the seeds that both have; None if there are none.

    The interval is the percentile bootstrap of the mean (Efron and Tibshirani 1993, chapter 13), at :data:`LEVEL`. Of two or three pairs
    it is the range from the smallest to the largest difference, which is narrower than the true uncertainty.
    """
    differences = np.array([value - baseline[seed] for seed, value in values.items() if seed in baseline])
    if not len(differences):
        return None
    means = np.random.default_rng(0).choice(differences, (_RESAMPLES, len(differences))).mean(1)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)) if len(differences) > 1 else (np.nan, np.nan)
    return Gain(float(differences.mean()), float(low), float(high), len(differences))


def gain_text(gain: Gain | None) -> str:
    """``+3.2 [+2.1, +4.4]``; of one pair only the mean, of none a dash."""
    if gain is None:
        return "-"
    return f"{gain.mean:+.1f}" if gain.pairs < 2 else f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"


def mean_and_deviation(values: Mapping[int, float]) -> str:
    """``mean ± sample standard deviation`` of values by seed."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values.values()):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values.values()):.1f}{deviation}"
