"""The sets of permutations have the sizes and distances that are stated, and their indices never change."""

import itertools

import numpy as np
import pytest

from detcon_d2.views.permutations import permutations


def distances(found: np.ndarray) -> np.ndarray:
    return (found[:, None] != found[None]).sum(2)[np.triu_indices(len(found), 1)]


@pytest.mark.parametrize(("name", "count", "least", "mean"), [("agl9", 72, 8, 8.11), ("psl28", 504, 7, 8.016), ("100", 100, 6, None)])
def test_sizes_and_distances(name, count, least, mean):
    found = permutations(name)
    assert found.shape == (count, 9) and (np.sort(found, axis=1) == np.arange(9)).all()
    assert distances(found).min() == least and np.array_equal(found[0], np.arange(9))
    assert mean is None or distances(found).mean() == pytest.approx(mean, abs=0.01)


@pytest.mark.parametrize(("name", "points"), [("agl9", 2), ("psl28", 3)])
def test_groups_map_any_points_to_any_others_in_exactly_one_way(name, points):
    found = permutations(name)
    images = {tuple(row[:points]) for row in found}
    assert len(images) == len(found) and images == set(itertools.permutations(range(9), points))
    products = {tuple(a[b]) for a in found[:20] for b in found}
    assert products <= {tuple(row) for row in found}


def test_indices_are_those_of_the_first_release():
    affine, projective = permutations("agl9").tolist(), permutations("psl28").tolist()
    assert affine[1] == [0, 2, 1, 6, 8, 7, 3, 5, 4] and affine[10] == [1, 3, 8, 6, 2, 4, 5, 7, 0] and affine[71] == list(range(8, -1, -1))
    assert projective[1] == [0, 1, 3, 6, 8, 7, 4, 2, 5] and projective[100] == [1, 7, 3, 4, 2, 6, 8, 0, 5]
    assert projective[503] == [8, 7, 6, 4, 3, 5, 2, 1, 0]


@pytest.mark.parametrize("name", ["agl8", "1", "10001", "-5", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"DETCON\.JIGSAW\.PERMUTATIONS is"):
        permutations(name)
