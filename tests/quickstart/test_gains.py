"""Gains are paired by seed; their interval is that of a bootstrap."""

import math

import numpy as np
import pytest

from detcon_d2.quickstart.gains import gain_text, mean_and_deviation, paired_gain


def test_gain_is_paired_by_seed_and_deviation_is_that_of_a_sample():
    gain = paired_gain({0: 13.0, 1: 20.0, 2: 99.0}, {0: 10.0, 1: 12.0})
    assert (gain.mean, gain.low, gain.high, gain.pairs) == (5.5, 3.0, 8.0, 2) and gain_text(gain) == "+5.5 [+3.0, +8.0]"
    assert paired_gain({}, {0: 1.0}) is None and gain_text(None) == "-"
    assert mean_and_deviation({0: 1.0, 1: 3.0, 2: 5.0}) == "3.0 ± 2.0"
    assert mean_and_deviation({0: 1.0}) == "1.0" and mean_and_deviation({}) == "-"


def test_one_pair_has_no_interval_and_decides_nothing():
    gain = paired_gain({0: 13.0}, {0: 10.0})
    assert math.isnan(gain.low) and gain_text(gain) == "+3.0" and gain.verdict() == "open"


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "open"), (2.0, "yes"), (-2.0, "no")])
def test_the_verdict_is_that_of_the_interval(shift, verdict):
    rng = np.random.default_rng(1)
    before = {seed: float(rng.normal()) for seed in range(12)}
    after = {seed: value + shift + 0.5 * float(rng.normal()) for seed, value in before.items()}
    assert paired_gain(after, before).verdict() == verdict


def test_the_interval_of_many_pairs_is_that_of_the_normal_distribution():
    differences = np.random.default_rng(2).normal(1.0, 2.0, 400)
    gain = paired_gain(dict(enumerate(differences)), dict.fromkeys(range(400), 0.0))
    half = 1.96 * differences.std() / 20
    assert gain.low == pytest.approx(differences.mean() - half, abs=0.02) and gain.high == pytest.approx(
        differences.mean() + half, abs=0.02
    )
