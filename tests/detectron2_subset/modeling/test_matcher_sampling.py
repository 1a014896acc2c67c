"""Matching boxes with ground truth and drawing from them, on every backend present, and alike on both."""

import pytest
import torch

QUALITIES = torch.tensor([[0.1, 0.3, 0.8, 0.2], [0.15, 0.2, 0.7, 0.5]])


@pytest.fixture
def matcher_class(backend):
    return backend.get("modeling.matcher").Matcher


@pytest.fixture
def subsample_labels(backend):
    return backend.get("modeling.sampling").subsample_labels


def test_each_prediction_gets_its_best_ground_truth_and_the_label_of_its_interval(matcher_class):
    matches, labels = matcher_class([0.3, 0.7], [0, -1, 1])(QUALITIES)
    assert matches.tolist() == [1, 0, 0, 1] and matches.dtype == torch.int64
    # A quality at a threshold belongs to the interval above it.
    assert labels.tolist() == [0, -1, 1, -1] and labels.dtype == torch.int8


def test_low_quality_matches_make_the_best_predictions_positive_and_keep_their_ground_truth(matcher_class):
    qualities = torch.tensor([[0.6, 0.1, 0.6, 0.0], [0.65, 0.0, 0.1, 0.0]])
    matches, labels = matcher_class([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(qualities)
    # Prediction 0 is the best for both (ties count), and stays with its own best, ground truth 1.
    assert matches.tolist() == [1, 0, 0, 0]
    assert labels.tolist() == [1, 0, 1, 0]


def test_without_ground_truth_or_predictions_there_is_nothing_but_the_first_label(matcher_class):
    matcher = matcher_class([0.5], [0, 1], allow_low_quality_matches=True)
    matches, labels = matcher(torch.zeros(0, 3))
    assert matches.tolist() == labels.tolist() == [0, 0, 0]
    matches, labels = matcher(torch.zeros(3, 0))
    assert len(matches) == len(labels) == 0 and matches.dtype == torch.int64 and labels.dtype == torch.int8


@pytest.mark.parametrize("arguments", [([0.5], [0]), ([0.5, 0.3], [0, -1, 1]), ([0.0], [0, 1]), ([0.5], [0, 2])])
def test_impossible_thresholds_and_labels_are_refused(matcher_class, arguments):
    with pytest.raises(AssertionError):
        matcher_class(*arguments)


@pytest.mark.parametrize("qualities", [torch.zeros(3), -QUALITIES, QUALITIES * float("nan")])
def test_qualities_are_a_matrix_of_numbers_that_are_not_negative(matcher_class, qualities):
    with pytest.raises(AssertionError):
        matcher_class([0.5], [0, 1])(qualities)


def test_both_backends_match_alike(subset, real):
    generator = torch.manual_seed(0)
    for shape in ((4, 300), (1, 50), (9, 9)):
        # Rounded, so that there are ties and qualities at the thresholds.
        qualities = (torch.rand(shape, generator=generator) * 10).round() / 10
        for low_quality in (False, True):
            ours, theirs = (each.get("modeling.matcher").Matcher([0.3, 0.7], [0, -1, 1], low_quality) for each in (subset, real))
            for mine, other in zip(ours(qualities), theirs(qualities), strict=True):
                assert torch.equal(mine, other)


def test_positives_are_limited_to_their_fraction_and_negatives_fill_up(subsample_labels):
    labels = torch.tensor([1] * 10 + [0] * 30 + [-1] * 5)
    positives, negatives = subsample_labels(labels, 16, 0.25, 0)
    assert len(positives) == 4 and len(negatives) == 12
    assert (labels[positives] == 1).all() and (labels[negatives] == 0).all()
    assert len(positives.unique()) == 4 and len(negatives.unique()) == 12


def test_few_positives_leave_their_places_to_negatives(subsample_labels):
    positives, negatives = subsample_labels(torch.tensor([1, 0, 0, 0, 0, -1]), 4, 0.5, 0)
    assert positives.tolist() == [0] and len(negatives) == 3
    positives, negatives = subsample_labels(torch.tensor([1, 0, -1]), 8, 0.5, 0)
    assert positives.tolist() == [0] and negatives.tolist() == [1]


def test_any_class_but_background_is_positive(subsample_labels):
    positives, negatives = subsample_labels(torch.tensor([0, 3, 80, 80, -1]), 8, 0.5, bg_label=80)
    assert sorted(positives.tolist()) == [0, 1] and sorted(negatives.tolist()) == [2, 3]


def test_both_backends_draw_the_same_from_one_seed(subset, real):
    labels = torch.randint(-1, 2, (500,), generator=torch.manual_seed(0))
    draws = []
    for each in (subset, real):
        torch.manual_seed(7)
        draws.append(torch.cat(each.get("modeling.sampling").subsample_labels(labels, 64, 0.5, 0)))
    assert torch.equal(*draws)
