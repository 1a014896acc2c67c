"""Anchors at every cell, on both backends, and alike."""

import pytest
import torch


@pytest.fixture
def make(backend):
    """The generator for anchors of 16 x 16 on maps of stride 4 and 8; options override."""
    defaults = {"sizes": [[16]], "aspect_ratios": [[1]], "strides": [4, 8]}
    return lambda **options: backend.get("modeling.anchor_generator").DefaultAnchorGenerator(**defaults | options)


def test_each_map_has_its_own_sizes_and_centres_by_row_then_column_then_anchor(make):
    generator = make(sizes=[[8, 16], [32]], offset=0.5)
    fine, coarse = (boxes.tensor for boxes in generator([torch.zeros(3, 5, 2, 3), torch.zeros(3, 5, 1, 2)]))
    assert ((fine[:, :2] + fine[:, 2:]) / 2).tolist() == [[x, y] for y in (2.0, 6.0) for x in (2.0, 6.0, 10.0) for _ in range(2)]
    assert (fine[:, 2] - fine[:, 0]).tolist() == [8.0, 16.0] * 6
    assert coarse.tolist() == [[-12, -12, 20, 20], [-4, -12, 28, 20]]
    assert not generator.state_dict() and not list(generator.parameters()), "checkpoints contain no anchors"


def test_the_config_names_generator_sizes_ratios_and_offset(backend):
    cfg, build = backend.get("config").get_cfg(), backend.get("modeling").build_anchor_generator
    cfg.MODEL.ANCHOR_GENERATOR.merge_from_list(["SIZES", [[8], [16]], "ASPECT_RATIOS", [[1.0, 4.0]], "OFFSET", 0.5])
    shapes = [backend.get("layers").ShapeSpec(channels=1, stride=stride) for stride in (4, 8)]
    generator = build(cfg, shapes)
    assert generator.num_anchors == [2, 2]
    assert generator([torch.zeros(1, 1, 1, 1)] * 2)[1].tensor.tolist() == [[-4, -4, 12, 12], [0, -12, 8, 20]]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32]]
    with pytest.raises(AssertionError):
        build(cfg, shapes)
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "NoSuchGenerator"
    with pytest.raises(KeyError):
        build(cfg, shapes)
