"""Region similarity: known cases and invariances."""

import math

import pytest
import torch

from detcon_d2.evaluation.similarity import cosine_map, mask_weights, region_embedding, separation


def box_mask(size: int, top: int, left: int, side: int) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_weights_are_the_share_of_each_cell_that_the_mask_covers():
    mask = box_mask(8, 0, 0, 4)
    mask[0, 4] = True
    assert mask_weights(mask, (2, 2)).tolist() == [[1.0, 1 / 16], [0.0, 0.0]]


def test_similarity_is_one_in_a_homogeneous_region_and_zero_where_features_are_orthogonal():
    features = torch.zeros(2, 4, 4)
    features[0], features[0, :2, :2] = 1.0, 0.0
    features[1, :2, :2] = 3.0
    similarity = cosine_map(features, region_embedding(features, box_mask(16, 0, 0, 8)))
    expected = torch.zeros(4, 4)
    expected[:2, :2] = 1.0
    torch.testing.assert_close(similarity, expected)


def test_a_region_that_covers_cells_in_part_weighs_them_by_that_part():
    features = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[:, 1:] = True
    torch.testing.assert_close(region_embedding(features, mask), torch.tensor([1 / 3, 2 / 3]))


def test_an_empty_region_is_refused():
    with pytest.raises(ValueError, match="The region has no pixel"):
        region_embedding(torch.ones(3, 2, 2), torch.zeros(8, 8, dtype=torch.bool))


def test_separation_is_one_for_a_perfect_map_zero_for_its_opposite_and_half_for_a_constant():
    mask = box_mask(32, 0, 0, 16)
    similarity = mask_weights(mask, (4, 4))
    assert separation(similarity, mask) == 1.0
    assert separation(-similarity, mask) == 0.0
    assert separation(torch.full((4, 4), 0.3), mask) == 0.5


@pytest.mark.parametrize(
    ("similarity", "mask", "expected"),
    [
        # Inside 0.9 and 0.2, outside 0.5 and 0.1: of four pairs only (0.2, 0.5) is wrong.
        ([[0.9, 0.2], [0.5, 0.1]], "1111 1111 0000 0000", 0.75),
        # A cell of which the mask covers less than half does not count.
        ([[0.5, 9.0], [0.1, 0.2]], "1110 1100 0000 0000", 1.0),
        ([[0.5, 0.6], [0.7, 0.8]], "0000 0000 0000 0000", math.nan),
        ([[0.5, 0.6], [0.7, 0.8]], "1111 1111 1111 1111", math.nan),
    ],
)
def test_separation_is_the_share_of_ordered_pairs(similarity, mask, expected):
    pixels = torch.tensor([[digit == "1" for digit in row] for row in mask.split()])
    assert separation(torch.tensor(similarity), pixels) == pytest.approx(expected, nan_ok=True)
