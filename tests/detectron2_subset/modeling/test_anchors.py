"""Anchors at every cell, on both backends, and alike."""

import pytest
import torch
from torch.testing import assert_close


@pytest.fixture
def make(backend):
    """The generator for anchors of 16 x 16 on maps of stride 4 and 8; options override."""
    defaults = {"sizes": [[16]], "aspect_ratios": [[1]], "strides": [4, 8]}
    return lambda **options: backend.get("modeling.anchor_generator").DefaultAnchorGenerator(**defaults | options)


def test_anchors_have_the_area_of_their_size_and_the_ratio_height_by_width(make):
    (cells,) = make(sizes=[[32, 64]], aspect_ratios=[[0.5, 1, 2]], strides=[4]).cell_anchors
    width, height = cells[:, 2] - cells[:, 0], cells[:, 3] - cells[:, 1]
    assert_close(width * height, torch.tensor([1024.0] * 3 + [4096.0] * 3))
    assert_close(height / width, torch.tensor([0.5, 1, 2] * 2))
    assert_close(cells[:, :2], -cells[:, 2:])


def test_each_map_has_its_own_sizes_and_centres_by_row_then_column_then_anchor(make):
    generator = make(sizes=[[8, 16], [32]], offset=0.5)
    fine, coarse = (boxes.tensor for boxes in generator([torch.zeros(3, 5, 2, 3), torch.zeros(3, 5, 1, 2)]))
    assert ((fine[:, :2] + fine[:, 2:]) / 2).tolist() == [[x, y] for y in (2.0, 6.0) for x in (2.0, 6.0, 10.0) for _ in range(2)]
    assert (fine[:, 2] - fine[:, 0]).tolist() == [8.0, 16.0] * 6
    assert coarse.tolist() == [[-12, -12, 20, 20], [-4, -12, 28, 20]]
    assert not generator.state_dict() and not list(generator.parameters()), "checkpoints contain no anchors"


def test_one_list_serves_all_maps_and_other_numbers_are_refused(make):
    for sizes, ratios in (([32, 64], [0.5, 1]), ([[32, 64]], [[0.5, 1]]), ([[32, 64], [32, 64]], [0.5, 1])):
        generator = make(sizes=sizes, aspect_ratios=ratios)
        assert generator.num_anchors == [4, 4] and torch.equal(*generator.cell_anchors)
    for wrong in ({"offset": 1.0}, {"sizes": [[8], [16], [32]]}):
        with pytest.raises(AssertionError):
            make(**wrong)


def test_the_config_names_generator_sizes_ratios_and_offset(backend):
    cfg, build = backend.get("config").get_cfg(), backend.get("modeling").build_anchor_generator
    cfg.MODEL.ANCHOR_GENERATOR.merge_from_list(["SIZES", [[8], [16]], "ASPECT_RATIOS", [[1.0, 4.0]], "OFFSET", 0.5])
    shapes = [backend.get("layers").ShapeSpec(channels=1, stride=stride) for stride in (4, 8)]
    generator = build(cfg, shapes)
    assert generator.num_anchors == [2, 2]
    assert generator([torch.zeros(1, 1, 1, 1)] * 2)[1].tensor.tolist() == [[-4, -4, 12, 12], [0, -12, 8, 20]]
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "NoSuchGenerator"
    with pytest.raises(KeyError):
        build(cfg, shapes)


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_both_backends_place_the_same_anchors(subset, real, offset):
    maps = [torch.zeros(1, 1, 7, 9), torch.zeros(1, 1, 4, 5)]
    arguments = {"sizes": [[32, 45.3], [64, 90.5]], "aspect_ratios": [[0.5, 1.0, 3.0]], "strides": [4, 8], "offset": offset}
    ours, theirs = (each.get("modeling.anchor_generator").DefaultAnchorGenerator(**arguments)(maps) for each in (subset, real))
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine.tensor, other.tensor, rtol=0, atol=1e-5)
