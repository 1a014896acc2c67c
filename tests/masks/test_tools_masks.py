"""The command lines of tools/score_masks.py and tools/visualize_masks.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcon_d2.masks import list_images
from tests.conftest import PATIENCE, REPO

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / "tools" / name), *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def truth(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segmentations of the pictures: two halves each."""
    root = tmp_path_factory.mktemp("gt")
    for record in list_images(f"folder:{photos}"):
        path = (root / record["key"]).with_suffix(".npz")
        path.parent.mkdir(exist_ok=True)
        np.savez(path, seg=np.repeat([[1, 2]], 72, axis=0).repeat(48, axis=1)[None])
    return root


def test_scores_are_printed_and_written(photos, truth, tmp_path):
    masks = tmp_path / "masks"
    assert tool("generate_masks.py", f"folder:{photos}", masks, "--generator", "grid", "--grid", 1, "--workers", 1).returncode == 0
    outputs = ("--json", tmp_path / "s.json", "--chart", tmp_path / "s.svg")
    done = tool("score_masks.py", "--bsds", photos, truth, "--source", "grid size=2", "--masks", masks, "--limit", 5, *outputs)
    assert done.returncode == 0 and done.stdout.startswith("5 images against human segmentations"), done.stderr
    grid, stored = json.loads((tmp_path / "s.json").read_text())
    assert (grid["source"], grid["asa"], grid["covering"], grid["images"]) == ("grid size=2", 1.0, 0.5, 5)
    assert (stored["source"], stored["asa"], stored["regions"], stored["milliseconds"]) == ("masks", 0.5, 1.0, None)
    assert (tmp_path / "s.svg").read_text().startswith("<svg")


def test_a_sheet_is_drawn(photos, truth, tmp_path):
    done = tool("visualize_masks.py", "--bsds", photos, truth, "--num-images", 2, "--source", "grid", "--output", tmp_path / "s.png")
    assert done.returncode == 0 and "2 images" in done.stdout, done.stderr
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width > 3 * 288


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("score_masks.py", ("--bsds", "{photos}", "{photos}"), "found no segmentation for any of the 12 images"),
        ("score_masks.py", ("--bsds", "{photos}", "{truth}", "--source", "grid scale=3"), "expected size"),
        ("score_masks.py", ("--bsds", "{photos}", "{truth}", "--chart", "s.pdf"), "expected the name of an .svg"),
        ("visualize_masks.py", ("folder:{photos}", "--output", "s.png", "--masks", "{photos}"), "index.json"),
        ("visualize_masks.py", ("folder:{photos}", "--output", "s.png", "--num-images", "0"), "expected at least 1"),
    ],
)
def test_user_errors_are_one_line_and_status_2(photos, truth, name, arguments, message):
    done = tool(name, *(argument.format(photos=photos, truth=truth) for argument in arguments))
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_real_segmentations_prefer_fh_to_a_grid(shared_dir: Path, tmp_path):
    bsds = shared_dir / "data" / "bsds"
    arguments = (
        "--bsds",
        bsds / "images",
        bsds / "gt",
        "--limit",
        4,
        "--source",
        "fh",
        "--source",
        "grid size=4",
        "--json",
        tmp_path / "s.json",
    )
    done = tool("score_masks.py", *arguments)
    assert done.returncode == 0, done.stderr
    fh, grid = json.loads((tmp_path / "s.json").read_text())
    assert fh["covering"] > grid["covering"] + 0.1 and fh["boundary_recall"] > grid["boundary_recall"] + 0.1
    assert fh["best_overlap"] > grid["best_overlap"]
