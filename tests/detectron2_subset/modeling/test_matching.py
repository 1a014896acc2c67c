"""Offsets between boxes, matching with ground truth and balanced sampling, on both backends, and alike."""

import math

import pytest
import torch
from torch.testing import assert_close

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 50
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator) * 50], dim=1)


@pytest.fixture
def transform(backend):
    return backend.get("modeling.box_regression").Box2BoxTransform(WEIGHTS)


def test_offsets_follow_the_formula(transform):
    # From centre (2, 1), sides 4 x 2 to centre (4, 3), sides 2 x 4.
    deltas = transform.get_deltas(torch.tensor([[0.0, 0, 4, 2]]), torch.tensor([[3.0, 1, 5, 5]]))
    assert_close(deltas, torch.tensor([[10 * 2 / 4, 10 * 2 / 2, 5 * math.log(0.5), 5 * math.log(2)]]))
    with pytest.raises(AssertionError):
        transform.get_deltas(torch.zeros(1, 4), torch.ones(1, 4))


def test_the_offsets_of_each_class_move_the_box_to_its_target(transform):
    sources, targets = random_boxes(3), [random_boxes(3, seed=seed) for seed in (1, 2)]
    moved = transform.apply_deltas(torch.cat([transform.get_deltas(sources, target) for target in targets], dim=1), sources)
    assert_close(moved, torch.cat(targets, dim=1), rtol=1e-5, atol=1e-4)
    assert transform.apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)
    assert transform.apply_deltas(torch.zeros(3, 4, dtype=torch.bfloat16), sources.double()).dtype == torch.float32
    # A box of 16 pixels becomes at most 1000 pixels large.
    grown = transform.apply_deltas(torch.tensor([[0.0, 0, 500, 500]]), torch.tensor([[0.0, 0, 16, 16]]))
    assert_close(grown, torch.tensor([[8.0 - 500, 8 - 500, 8 + 500, 8 + 500]]))


QUALITIES = torch.tensor([[0.1, 0.3, 0.8, 0.2], [0.15, 0.2, 0.7, 0.5]])


@pytest.fixture
def matcher_class(backend):
    return backend.get("modeling.matcher").Matcher


def test_each_prediction_gets_its_best_ground_truth_and_the_label_of_its_interval(matcher_class):
    matches, labels = matcher_class([0.3, 0.7], [0, -1, 1])(QUALITIES)
    assert matches.tolist() == [1, 0, 0, 1] and matches.dtype == torch.int64
    # A quality at a threshold belongs to the interval above it.
    assert labels.tolist() == [0, -1, 1, -1] and labels.dtype == torch.int8


def test_low_quality_matches_make_the_best_predictions_positive_and_keep_their_ground_truth(matcher_class):
    qualities = torch.tensor([[0.6, 0.1, 0.6, 0.0], [0.65, 0.0, 0.1, 0.0]])
    matches, labels = matcher_class([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(qualities)
    # Prediction 0 is the best for both (ties count), and keeps its own best, ground truth 1.
    assert matches.tolist() == [1, 0, 0, 0] and labels.tolist() == [1, 0, 1, 0]


def test_without_ground_truth_or_predictions_there_is_only_the_first_label(matcher_class):
    matcher = matcher_class([0.5], [0, 1], allow_low_quality_matches=True)
    matches, labels = matcher(torch.zeros(0, 3))
    assert matches.tolist() == labels.tolist() == [0, 0, 0]
    matches, labels = matcher(torch.zeros(3, 0))
    assert len(matches) == len(labels) == 0 and matches.dtype == torch.int64 and labels.dtype == torch.int8


@pytest.mark.parametrize("arguments", [([0.5], [0]), ([0.5, 0.3], [0, -1, 1]), ([0.0], [0, 1]), ([0.5], [0, 2])])
def test_impossible_thresholds_labels_and_qualities_are_refused(matcher_class, arguments):
    with pytest.raises(AssertionError):
        matcher_class(*arguments)
    for qualities in (torch.zeros(3), -QUALITIES, QUALITIES * float("nan")):
        with pytest.raises(AssertionError):
            matcher_class([0.5], [0, 1])(qualities)


@pytest.mark.parametrize("low_quality", [False, True])
def test_both_backends_match_alike(subset, real, low_quality):
    generator = torch.manual_seed(0)
    for shape in ((4, 300), (1, 50), (9, 9)):
        # Rounded, so that there are ties and qualities at the thresholds.
        qualities = (torch.rand(shape, generator=generator) * 10).round() / 10
        ours, theirs = (each.get("modeling.matcher").Matcher([0.3, 0.7], [0, -1, 1], low_quality) for each in (subset, real))
        for mine, other in zip(ours(qualities), theirs(qualities), strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("counts", "limits", "expected"),
    [((10, 30, 5), (16, 0.25), (4, 12)), ((1, 4, 1), (4, 0.5), (1, 3)), ((1, 1, 1), (8, 0.5), (1, 1)), ((9, 0, 0), (8, 0.5), (4, 0))],
)
def test_positives_are_limited_and_negatives_fill_the_rest(backend, counts, limits, expected):
    """Of each image: positives (of classes 0 and 3), negatives (class 80), ignored."""
    positive, negative, ignored = counts
    labels = torch.tensor([0, 3] * positive + [80] * negative + [-1] * ignored)[positive:]
    chosen = backend.get("modeling.sampling").subsample_labels(labels, *limits, bg_label=80)
    assert tuple(len(one.unique()) for one in chosen) == tuple(map(len, chosen)) == expected
    assert set(labels[chosen[0]].tolist()) <= {0, 3} and set(labels[chosen[1]].tolist()) <= {80}
