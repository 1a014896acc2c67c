"""The comparison of both backends' speed: the workers answer, and the figures are ratios of one run."""

import io
import sys
from pathlib import Path

import measure_backends as benchmark
import pytest
import torch
from measure_backends import Speed, compare, serve

from tests.conftest import REPO

CONFIG = str(REPO / "configs/quickstart/mask_rcnn_R_18_FPN.yaml")
TINY = ["MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.FPN.OUT_CHANNELS", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]


def test_figures_are_medians_and_the_ratio_is_taken_round_by_round():
    # A slow second round does not count as a difference between backends.
    line = str(Speed("train", ((10.0, 10.0), (2.0, 2.0), (11.0, 10.0))))
    assert "ratio 1.000" in line and "subset   10.00" in line and "rounds 1.000 to 1.100" in line


def test_a_worker_answers_with_seconds_and_leaves_its_weights_for_the_next(tmp_path: Path, capsys: pytest.CaptureFixture):
    weights = tmp_path / "weights.pth"
    serve(CONFIG, str(weights), 1, 64, TINY, io.StringIO("train 1\ninference 2\n"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "@ready" and all(float(line.removeprefix("@seconds ")) > 0 for line in lines[1:]) and len(lines) == 3
    saved = torch.load(weights, weights_only=True)
    serve(CONFIG, str(weights), 1, 64, TINY, io.StringIO(""))
    assert all(torch.equal(value, torch.load(weights, weights_only=True)[key]) for key, value in saved.items())


def test_a_worker_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmark.sys, "executable", sys.executable)
    with pytest.raises(RuntimeError, match="exit code"):
        next(compare("no/such/config.yaml", [], rounds=1, steps=1, batch=1, size=64))
