"""The command line of tools/generate_masks.py, and how light the package is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detcon_d2.masks import LabelMapStore
from tests.conftest import PATIENCE, REPO, write_photos

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}


def tool(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / "tools" / "generate_masks.py"), *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)


def test_a_trial_then_the_rest_then_the_lines_for_the_config(photos, tmp_path):
    trial = tool(f"folder:{photos}", tmp_path / "m", "--limit", 3, "--scale", 100, "--min-size", 50, "--workers", 1)
    assert trial.returncode == 0 and trial.stdout.startswith("3 images: 3 made")
    assert LabelMapStore(tmp_path / "m").keys() == {"a/000.png", "a/010.png", "b/011.png"}
    full = tool(f"folder:{photos}", tmp_path / "m", "--scale", 100, "--min-size", 50, "--workers", 1)
    assert "12 images: 9 made" in full.stdout and "3 were there" in full.stdout and "images/s" in full.stderr
    assert f"""DATASETS.TRAIN '("folder:{photos}",)' DETCON.MASKS.ROOTS '("{tmp_path}/m",)'""" in full.stdout
    assert LabelMapStore(tmp_path / "m").index["params"] == {"scale": 100.0, "sigma": 0.8, "min_size": 50}


def test_failed_images_are_in_the_exit_status(tmp_path):
    images = write_photos(tmp_path / "images", 2)
    (images / "bad.jpg").touch()
    done = tool(f"folder:{images}", tmp_path / "m", "--generator", "grid", "--grid", 5, "--workers", 1)
    assert done.returncode == 1 and "FAILED bad.jpg: the file is empty (0 bytes)" in done.stdout
    assert LabelMapStore(tmp_path / "m").index["params"] == {"size": 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("folder:{photos}", "{tmp}/m", "--generator", "grid", "--scale", "3"), "'grid': found parameter scale; expected size"),
        (("folder:{tmp}", "{tmp}_m"), "found no files; expected images"),
        (("folder:{photos}", "{photos}/masks"), "expected one outside"),
        (("no_such_set", "{tmp}/m"), "no_such_set"),
    ],
)
def test_user_errors_are_one_line_and_status_2(photos, tmp_path, arguments, message):
    done = tool(*(argument.format(photos=photos, tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_help_teaches_by_example():
    text = tool("--help").stdout
    assert text.count("python tools/generate_masks.py") >= 5 and all(word in text for word in ("folder:", "coco:", "list:", "exit status"))


def test_masks_load_neither_torch_nor_detectron2():
    heavy = ("torch", "torchvision", "fvcore", "detectron2", "detcon_d2.detectron2_subset", "detcon_d2.d2", "scipy", "numba", "matplotlib")
    paths = [path for folder in ("io", "masks") for path in (REPO / "detcon_d2" / folder).rglob("[a-z]*.py")]
    names = {".".join(path.relative_to(REPO).with_suffix("").parts) for path in paths}
    modules = sorted(names - {"detcon_d2.masks.generators.felzenszwalb_kernels"})  # loaded by the first FH image, with numba
    code = f"import sys, {', '.join(modules)}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_real_images_get_regions(shared_dir: Path, tmp_path):
    coco = shared_dir / "data" / "coco_subset"
    for generator, spec in (("fh", f"folder:{coco}/images"), ("annotations", f"coco:{coco}/instances.json,{coco}/images")):
        done = tool(spec, tmp_path / generator, "--generator", generator, "--limit", 6, "--workers", 1)
        assert done.returncode == 0 and "6 made" in done.stdout, done.stderr
