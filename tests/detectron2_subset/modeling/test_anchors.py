"""Anchors at every cell, on every backend present, and alike on both."""

import pytest
import torch
from torch.testing import assert_close


@pytest.fixture
def anchors(backend):
    return backend.get("modeling.anchor_generator")


def test_anchors_have_the_area_of_their_size_and_the_ratio_height_by_width(anchors):
    generator = anchors.DefaultAnchorGenerator(sizes=[[1]], aspect_ratios=[[1]], strides=[16])
    cells = generator.generate_cell_anchors([32, 64], [0.5, 1, 2])
    width, height = cells[:, 2] - cells[:, 0], cells[:, 3] - cells[:, 1]
    assert_close(width * height, torch.tensor([1024.0] * 3 + [4096.0] * 3))
    assert_close(height / width, torch.tensor([0.5, 1, 2] * 2))
    assert_close(cells[:, :2], -cells[:, 2:])


def test_centres_are_a_stride_apart_by_row_then_column_then_anchor(anchors):
    generator = anchors.DefaultAnchorGenerator(sizes=[[8, 16]], aspect_ratios=[[1]], strides=[4], offset=0.5)
    (boxes,) = generator([torch.zeros(3, 5, 2, 3)])
    centers = [[x, y] for y in (2.0, 6.0) for x in (2.0, 6.0, 10.0) for _ in range(2)]
    assert boxes.get_centers().tolist() == centers
    assert (boxes.tensor[:, 2] - boxes.tensor[:, 0]).tolist() == [8.0, 16.0] * 6


def test_one_list_serves_all_maps(anchors):
    for sizes, ratios in (([32, 64], [0.5, 1]), ([[32, 64]], [[0.5, 1]]), ([[32, 64], [32, 64]], [0.5, 1])):
        generator = anchors.DefaultAnchorGenerator(sizes=sizes, aspect_ratios=ratios, strides=[4, 8])
        assert generator.num_anchors == [4, 4]
        assert torch.equal(*generator.cell_anchors)


def test_each_map_has_its_own_sizes_and_stride(anchors):
    generator = anchors.DefaultAnchorGenerator(sizes=[[8], [32]], aspect_ratios=[[1]], strides=[4, 16], offset=0.0)
    fine, coarse = generator([torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 1, 2)])
    assert len(fine) == 16 and fine.tensor[1].tolist() == [0, -4, 8, 4]
    assert coarse.tensor.tolist() == [[-16, -16, 16, 16], [0, -16, 32, 16]]


def test_checkpoints_hold_no_anchors(anchors):
    generator = anchors.DefaultAnchorGenerator(sizes=[[8]], aspect_ratios=[[1]], strides=[4])
    assert not generator.state_dict() and not list(generator.parameters())


@pytest.mark.parametrize("wrong", [{"offset": 1.0}, {"sizes": [[8], [16], [32]]}])
def test_impossible_offsets_and_numbers_of_lists_are_refused(anchors, wrong):
    with pytest.raises(AssertionError):
        anchors.DefaultAnchorGenerator(**{"sizes": [[8]], "aspect_ratios": [[1]], "strides": [4, 8], **wrong})


def test_the_config_names_generator_sizes_ratios_and_offset(backend, anchors):
    cfg = backend.get("config").get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.merge_from_list(["SIZES", [[8], [16]], "ASPECT_RATIOS", [[1.0, 4.0]], "OFFSET", 0.5])
    shapes = [backend.get("layers").ShapeSpec(channels=1, stride=stride) for stride in (4, 8)]
    generator = backend.get("modeling").build_anchor_generator(cfg, shapes)
    assert isinstance(generator, anchors.DefaultAnchorGenerator)
    assert generator.num_anchors == [2, 2] and generator.box_dim == 4
    assert generator([torch.zeros(1, 1, 1, 1)] * 2)[1].get_centers().tolist() == [[4, 4], [4, 4]]
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "NoSuchGenerator"
    with pytest.raises(KeyError):
        backend.get("modeling").build_anchor_generator(cfg, shapes)


def test_both_backends_place_the_same_anchors(subset, real):
    maps = [torch.zeros(1, 1, 7, 9), torch.zeros(1, 1, 4, 5)]
    arguments = {"sizes": [[32, 45.3], [64, 90.5]], "aspect_ratios": [[0.5, 1.0, 3.0]], "strides": [4, 8]}
    for offset in (0.0, 0.5, 0.3):
        ours, theirs = (each.get("modeling.anchor_generator").DefaultAnchorGenerator(**arguments, offset=offset) for each in (subset, real))
        for mine, other in zip(ours(maps), theirs(maps), strict=True):
            assert_close(mine.tensor, other.tensor, rtol=0, atol=1e-5)
