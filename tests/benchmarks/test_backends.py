"""The comparison of both backends' speed: a backend's process works, and ratios are taken round by round."""

from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
from backends import Detector, compare_backends, describe_phase

from tests.conftest import REPO

CONFIG = str(REPO / "configs/quickstart/mask_rcnn_R_18_FPN.yaml")
TINY = ["MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.FPN.OUT_CHANNELS", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]


def test_speeds_are_medians_and_the_ratio_is_taken_round_by_round():
    # A slow second round does not count as a difference between backends.
    line = describe_phase("train", 10, {"subset": [1.0, 5.0, 1.0], "detectron2": [1.0, 5.0, 1.1]})
    assert "ratio 1.000" in line and "subset   10.00" in line and "rounds 1.000 to 1.100" in line


def test_a_detector_trains_and_leaves_its_initial_weights_for_the_next(tmp_path: Path):
    weights = tmp_path / "weights.pth"
    first = Detector(CONFIG, TINY, weights, 1, 64)
    saved = torch.load(weights, weights_only=True)
    first.run("inference", 1)
    first.run("train", 1)
    assert not all(torch.equal(value, saved[key]) for key, value in first.model.state_dict().items())
    second = Detector(CONFIG, TINY, weights, 1, 64)
    assert all(torch.equal(value, saved[key]) for key, value in second.model.state_dict().items())
    assert torch.equal(first.records[0]["image"], second.records[0]["image"])


def test_a_process_that_fails_is_an_error():
    with pytest.raises(BrokenProcessPool):
        next(compare_backends("no/such/config.yaml", [], rounds=1, steps=1, batch=1, size=64))
