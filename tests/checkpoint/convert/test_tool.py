"""The command line of tools/convert_to_d2.py."""

import functools
import os

import pytest

from detcon_d2.checkpoint.convert.styles import STYLES
from tests.checkpoint.published import publish


@pytest.fixture
def tool(run_tool, monkeypatch, tmp_path):
    """The tool in the empty folder ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(run_tool, "convert_to_d2.py")


def test_a_conversion_prints_metadata_check_and_files(pretrained_b, tmp_path, tool):
    before = pretrained_b.read_bytes()
    done = tool(pretrained_b, "w.pkl", "--encoder", "ema")
    assert done.returncode == 0, done.stderr
    for text in ("ema encoder", "epochs: 2.0", "features before and after conversion agree", f"{tmp_path}/w.yaml"):
        assert text in done.stdout
    assert sorted(os.listdir(tmp_path)) == ["w.pkl", "w.yaml"] and pretrained_b.read_bytes() == before


def test_an_error_is_one_message_without_traceback(pretrained_s, tmp_path, tool):
    done = tool(pretrained_s, "w.pth", "--encoder", "ema")
    assert done.returncode == 2 and done.stderr.count("convert_to_d2.py: ") == 1 and "Traceback" not in done.stderr
    assert "no EMA encoder (keys 'target.encoder.*'): the method of this checkpoint keeps none. Use --encoder online" in done.stderr
    assert os.listdir(tmp_path) == []


def test_style_statistics_and_check_are_chosen_by_options(tmp_path, tool):
    source, *_ = publish(tmp_path, "moco")
    done = tool(source, "w.pth", "--encoder", "ema")
    assert "style moco: 120 tensors of a ResNet under 'encoder_k.' in 'state_dict'" in done.stdout and "pixel_std: [58.395" in done.stdout
    done = tool(source, "unit.pth", "--from", "moco", "--statistics", "unit", "--no-check")
    assert done.returncode == 0 and "pixel_std: [255.0, 255.0, 255.0]" in done.stdout and "features: not compared" in done.stdout
    done = tool(source, "other.pth", "--from", "swav")
    assert done.returncode == 2 and "is not of style swav" in done.stderr


def test_the_styles_are_listed_without_input(tool):
    done = tool("--list-styles")
    assert done.returncode == 0 and [line.partition(":")[0] for line in done.stdout.splitlines() if line[:1] != " "] == list(STYLES)
