"""Scores of label maps: values by hand, and what must hold for any pair of maps."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detcon_d2.masks import NO_REGION
from detcon_d2.masks.scoring.scores import (
    GroundTruth,
    achievable_accuracy,
    best_overlaps,
    boundaries,
    contingency_table,
    covering,
    score_label_map,
)

# Two halves of eight pixels, and a map that cuts one column too far to the right.
HALVES = np.repeat([[0, 0, 1, 1]], 4, axis=0)
SHIFTED = np.repeat([[7, 7, 7, 3]], 4, axis=0)
VOID = NO_REGION
maps = arrays(np.int64, (6, 7), elements=st.sampled_from([0, 1, 2, 5, 300, VOID]))


def test_the_background_is_no_object_but_counts_as_a_label():
    table = contingency_table(SHIFTED, GroundTruth(HALVES, background=0))
    assert best_overlaps(table) == pytest.approx([0.5]) and covering(table) == pytest.approx(0.5)
    assert achievable_accuracy(table) == pytest.approx(12 / 16)


def test_nothing_labelled_is_no_number_and_no_region_is_zero():
    nothing, some = np.full((3, 3), VOID), np.zeros((3, 3), int)
    scores = score_label_map(some, [GroundTruth(nothing)])
    assert all(math.isnan(value) for value in (scores.covering, scores.asa, scores.best_overlap, scores.boundary_recall))
    assert scores.objects == 0
    scores = score_label_map(nothing, [GroundTruth(some)])
    assert (scores.covering, scores.asa, scores.best_overlap, scores.regions) == (0, 0, 0, 0)
    only_background = score_label_map(some, [GroundTruth(some, background=0)])
    assert math.isnan(only_background.covering) and math.isnan(only_background.best_overlap) and only_background.asa == 1


def test_boundaries_lie_left_of_and_above_the_change():
    label_map = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    assert boundaries(label_map).astype(int).tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert boundaries(np.where(label_map == 2, VOID, label_map), void=VOID).astype(int).tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert not boundaries(np.full((4, 5), 3)).any()


def test_several_annotators_are_averaged_and_their_objects_pooled():
    one, two = GroundTruth(HALVES), GroundTruth(np.zeros((4, 4), int))
    scores = score_label_map(HALVES, [one, two])
    assert scores.covering == pytest.approx((1 + 0.5) / 2) and scores.best_overlap == pytest.approx((1 + 1 + 0.5) / 3)
    assert scores.asa == 1 and scores.boundary_recall == 1 and scores.objects == 3  # the second has no boundary, and does not count
    with pytest.raises(ValueError, match=r"label map of \(4, 4\) and a ground truth of \(4, 5\)"):
        contingency_table(HALVES, GroundTruth(np.zeros((4, 5), int)))


@given(maps, maps)
def test_one_table_gives_what_looking_at_every_mask_gives(label_map, truth):
    labelled = truth != VOID
    scores = score_label_map(label_map, [GroundTruth(truth)])
    regions = [(label_map == region) & labelled for region in np.unique(label_map) if region != VOID]
    regions = [region for region in regions if region.any()]
    segments = [truth == segment for segment in np.unique(truth) if segment != VOID]
    best = [max([(s & r).sum() / (s | r).sum() for r in regions], default=0.0) for s in segments]
    if segments:
        assert scores.best_overlap == pytest.approx(np.mean(best))
        assert scores.covering == pytest.approx(sum(s.sum() * b for s, b in zip(segments, best)) / labelled.sum())
        assert scores.asa == pytest.approx(sum(max((s & r).sum() for s in segments) for r in regions) / labelled.sum())
    line = np.argwhere(boundaries(truth, void=VOID))
    found = np.argwhere(boundaries(label_map))
    if len(line):
        near = [bool(len(found)) and np.abs(found - point).max(axis=1).min() <= 2 for point in line]
        assert scores.boundary_recall == pytest.approx(np.mean(near))


@given(maps, maps)
def test_splitting_regions_never_lowers_recall_and_accuracy(label_map, truth):
    whole = np.where(label_map == VOID, 0, label_map)
    split = 2 * whole + (np.arange(7) % 2)
    before, after = (score_label_map(one, [GroundTruth(truth)]) for one in (whole, split))
    assert not after.asa < before.asa and not after.boundary_recall < before.boundary_recall
