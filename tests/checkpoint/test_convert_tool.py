"""The command line of tools/convert_to_d2.py."""

import os
import subprocess
import sys

from detcon_d2.checkpoint import STYLES
from tests.checkpoint.published import publish
from tests.conftest import REPO

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}


def tool(folder, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / "tools" / "convert_to_d2.py"), *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, cwd=folder, capture_output=True, text=True, timeout=100)


def test_a_conversion_prints_metadata_check_and_files(pretrained_b, tmp_path):
    before = pretrained_b.read_bytes()
    done = tool(tmp_path, pretrained_b, "w.pkl", "--encoder", "ema")
    assert done.returncode == 0, done.stderr
    for text in (
        "ema encoder",
        "epochs: 2.0",
        "mask_parameters: grid 2",
        "features before and after conversion agree",
        str(tmp_path / "w.yaml"),
    ):
        assert text in done.stdout
    assert f'WEIGHTS: "{tmp_path / "w.pkl"}"' in (tmp_path / "w.yaml").read_text()
    assert sorted(os.listdir(tmp_path)) == ["w.pkl", "w.yaml"] and pretrained_b.read_bytes() == before


def test_the_check_can_be_left_out_and_says_so(pretrained_s, tmp_path):
    done = tool(tmp_path, pretrained_s, "w.pth", "--no-check")
    assert done.returncode == 0 and "features: not compared" in done.stdout


def test_an_error_is_one_message_without_traceback(pretrained_s, tmp_path):
    done = tool(tmp_path, pretrained_s, "w.pth", "--encoder", "ema")
    assert done.returncode == 2 and done.stderr.count("convert_to_d2.py: ") == 1
    assert "only DetCon_B keeps one" in done.stderr and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_help_teaches_by_examples(tmp_path):
    done = tool(tmp_path, "--help")
    assert done.returncode == 0 and "examples" in done.stdout
    assert done.stdout.count("python tools/convert_to_d2.py ") >= 3 and "--encoder ema" in done.stdout and "--to torchvision" in done.stdout


def test_the_style_is_detected_or_said_and_the_statistics_too(tmp_path):
    source, *_ = publish(tmp_path, "moco")
    done = tool(tmp_path, source, "w.pth", "--encoder", "ema")
    assert done.returncode == 0, done.stderr
    assert "style moco: 120 tensors of a ResNet under 'encoder_k.' in 'state_dict'" in done.stdout
    assert "dropped, queue of negatives: queue, queue_ptr (2)" in done.stdout and "pixel_std: [58.395" in done.stdout
    done = tool(tmp_path, source, "unit.pth", "--from", "moco", "--statistics", "unit")
    assert done.returncode == 0 and "pixel_std: [255.0, 255.0, 255.0]" in done.stdout
    done = tool(tmp_path, source, "other.pth", "--from", "swav")
    assert done.returncode == 2 and "is not of style swav" in done.stderr


def test_the_styles_are_listed_without_input(tmp_path):
    done = tool(tmp_path, "--list-styles")
    assert done.returncode == 0 and [line.partition(":")[0] for line in done.stdout.splitlines() if line[:1] != " "] == list(STYLES)
