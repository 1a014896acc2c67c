"""Anchors at every cell, on both backends, and alike."""

import pytest
import torch


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
