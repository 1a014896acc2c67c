"""Region similarity: known cases and invariances."""

import math

import pytest
import torch

from detcon_d2.evaluation.similarity import cosine_map, mask_weights, region_embedding, separation, upsample


def box_mask(size: int, top: int, left: int, side: int) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_weights_are_the_share_of_each_cell_that_the_mask_covers():
    mask = box_mask(8, 0, 0, 4)
    mask[0, 4] = True
    assert mask_weights(mask, (2, 2)).tolist() == [[1.0, 1 / 16], [0.0, 0.0]]


def test_constant_features_are_similar_to_every_region_everywhere():
    features = torch.rand(5, 1, 1).expand(5, 6, 6)
    similarity = cosine_map(features, region_embedding(features, box_mask(60, 3, 7, 20)))
    torch.testing.assert_close(similarity, torch.ones(6, 6))


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


def test_similarity_does_not_depend_on_the_scale_of_the_features():
    features, mask = torch.randn(8, 5, 5), box_mask(40, 10, 5, 17)
    small = cosine_map(features, region_embedding(features, mask))
    large = cosine_map(100 * features, region_embedding(0.01 * features, mask))
    torch.testing.assert_close(small, large)
    assert small.min() >= -1 and small.max() <= 1


def test_a_region_of_another_image_can_be_searched():
    query, target = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    query[1], target[0], target[1, 0, 1], target[0, 0, 1] = 1.0, 1.0, 2.0, 0.0
    similarity = cosine_map(target, region_embedding(query, box_mask(8, 0, 0, 8)))
    assert similarity.tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_an_empty_region_is_refused():
    with pytest.raises(ValueError, match="The region has no pixel"):
        region_embedding(torch.rand(3, 2, 2), torch.zeros(8, 8, dtype=torch.bool))


def test_separation_is_one_for_a_perfect_map_zero_for_its_opposite_and_half_for_a_constant():
    mask = box_mask(32, 0, 0, 16)
    similarity = mask_weights(mask, (4, 4))
    assert separation(similarity, mask) == 1.0
    assert separation(-similarity, mask) == 0.0
    assert separation(torch.full((4, 4), 0.3), mask) == 0.5


def test_separation_is_the_share_of_ordered_pairs():
    # Inside 0.9 and 0.2, outside 0.5 and 0.1: of four pairs only (0.2, 0.5) is wrong.
    similarity = torch.tensor([[0.9, 0.2], [0.5, 0.1]])
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    assert separation(similarity, mask) == 0.75


def test_separation_leaves_out_cells_that_the_mask_only_touches():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2, :2] = True
    mask[0, 2] = True
    similarity = torch.tensor([[0.5, 9.0], [0.1, 0.2]])
    assert separation(similarity, mask) == 1.0


def test_separation_without_inside_or_outside_is_nan():
    similarity = torch.rand(2, 2)
    assert math.isnan(separation(similarity, torch.zeros(4, 4, dtype=torch.bool)))
    assert math.isnan(separation(similarity, torch.ones(4, 4, dtype=torch.bool)))


def test_upsampling_keeps_size_and_range():
    similarity = torch.rand(3, 3)
    large = upsample(similarity, (24, 30))
    assert large.shape == (24, 30)
    assert similarity.min() - 1e-6 <= large.min() and large.max() <= similarity.max() + 1e-6
