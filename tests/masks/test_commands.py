"""The command lines of tools/*_masks.py, and how light the package is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcon_d2.masks import LabelMapStore, list_images
from detcon_d2.masks.store.formats import open_store
from tests.annotated import OBJECTS, each, write_coco, write_voc, write_yolo
from tests.conftest import REPO

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def truth(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segmentations of the pictures: two halves each."""
    root = tmp_path_factory.mktemp("gt")
    for record in list_images(f"folder:{photos}"):
        path = (root / record["key"]).with_suffix(".npz")
        path.parent.mkdir(exist_ok=True)
        np.savez(path, seg=np.repeat([[1, 2]], 72, axis=0).repeat(48, axis=1)[None])
    return root


def test_a_trial_then_the_rest_then_the_lines_for_the_config(photos, tmp_path):
    def tool(*arguments: object) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "tools/generate_masks.py",
            f"folder:{photos}",
            tmp_path / "m",
            "--scale=100",
            "--min-size=50",
            *arguments,
        ]
        return subprocess.run(list(map(str, command)), cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True, timeout=100)

    trial = tool("--limit", 3, "--workers", 1)
    assert trial.returncode == 0 and trial.stdout.startswith("3 images: 3 made"), trial.stderr
    assert LabelMapStore(tmp_path / "m").keys() == {"a/000.png", "a/010.png", "b/011.png"}
    full = tool("--workers", 2)
    assert "12 images: 9 made" in full.stdout and "3 were there" in full.stdout and "images/s" in full.stderr
    assert f"""DATASETS.TRAIN '("folder:{photos}",)' DETCON.MASKS.ROOTS '("{tmp_path}/m",)'""" in full.stdout
    assert LabelMapStore(tmp_path / "m").index["params"] == {"scale": 100.0, "sigma": 0.8, "min_size": 50}


def test_scores_are_printed_and_written(photos, truth, tmp_path, run_tool):
    masks = tmp_path / "masks"
    made = run_tool("generate_masks.py", f"folder:{photos}", masks, "--generator", "grid", "--grid", 1, "--workers", 1)
    assert made.returncode == 0, made.stderr
    outputs = ("--json", tmp_path / "s.json", "--chart", tmp_path / "s.svg")
    done = run_tool("score_masks.py", "--bsds", photos, truth, "--source", "grid size=2", "--masks", masks, "--limit", 5, *outputs)
    assert done.returncode == 0 and done.stdout.startswith("5 images against human segmentations"), done.stderr
    grid, stored = json.loads((tmp_path / "s.json").read_text())
    assert (grid["source"], grid["asa"], grid["covering"], grid["images"]) == ("grid size=2", 1.0, 0.5, 5)
    assert (stored["source"], stored["asa"], stored["regions"], stored["milliseconds"]) == ("masks", 0.5, 1.0, None)
    assert (tmp_path / "s.svg").read_text().startswith("<svg")


def test_a_sheet_is_drawn(photos, truth, tmp_path, run_tool):
    arguments = ("--num-images", 2, "--source", "grid", "--output", tmp_path / "s.png")
    done = run_tool("visualize_masks.py", "--bsds", photos, truth, *arguments)
    assert done.returncode == 0 and "2 images" in done.stdout, done.stderr
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width > 3 * 288


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("generate_masks.py folder:{photos} {tmp}/m --generator grid --scale 3", "'grid': found parameter scale; expected size"),
        ("generate_masks.py folder:{tmp} {tmp}_m", "found no files; expected images"),
        ("generate_masks.py folder:{photos} {photos}/masks", "expected one outside"),
        ("generate_masks.py folder:{photos} {tmp}/m --shard 2/2", "expected i/n"),
        ("generate_masks.py no_such_set {tmp}/m", "no_such_set"),
        ("merge_masks.py {tmp}/none", "expected a folder made by"),
        ("score_masks.py --bsds {photos} {truth} --source grid --source fh=3", "found 'fh=3'; expected one of"),
        ("score_masks.py --bsds {photos} {truth} --chart s.pdf", "expected the name of an .svg"),
        ("visualize_masks.py folder:{photos} --output s.png --masks {photos}", "index.json"),
        ("visualize_masks.py folder:{photos} --output s.png --num-images 0", "expected at least 1"),
    ],
)
def test_user_errors_are_one_line_and_status_2(photos, truth, tmp_path, run_tool, arguments, message):
    done = run_tool(*arguments.format(photos=photos, truth=truth, tmp=tmp_path).split())
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_masks_load_neither_torch_nor_detectron2():
    heavy = ("torch", "torchvision", "fvcore", "detectron2", "detcon_d2.detectron2_subset", "detcon_d2.d2", "scipy", "numba", "matplotlib")
    paths = [path for folder in ("io", "masks") for path in (REPO / "detcon_d2" / folder).rglob("[a-z]*.py")]
    names = {".".join(path.relative_to(REPO).with_suffix("").parts) for path in paths}
    # Loaded by the first FH image, with numba, and by the first chart, with matplotlib.
    modules = sorted(names - {"detcon_d2.masks.generators.felzenszwalb_kernels", "detcon_d2.io.charts"})
    code = f"import sys, {', '.join(modules)}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_real_segmentations_prefer_fh_to_a_grid(shared_dir: Path, tmp_path, run_tool):
    bsds = shared_dir / "data" / "bsds"
    sources = ("--limit", 4, "--source", "fh", "--source", "grid size=4", "--json", tmp_path / "s.json")
    done = run_tool("score_masks.py", "--bsds", bsds / "images", bsds / "gt", *sources)
    assert done.returncode == 0, done.stderr
    fh, grid = json.loads((tmp_path / "s.json").read_text())
    assert all(fh[name] > grid[name] + margin for name, margin in (("covering", 0.1), ("boundary_recall", 0.1), ("best_overlap", 0)))


@pytest.mark.parametrize("write", [write_voc, write_yolo, lambda root: write_coco(root, each(lambda one: one.update(segmentation=[])))])
def test_boxes_become_regions_only_where_asked_for(write, run_tool, tmp_path):
    spec = write(tmp_path / "data")
    arguments = (spec, tmp_path / "maps", "--generator", "annotations", "--workers", 1)
    done = run_tool("generate_masks.py", *arguments)
    assert done.returncode == 2 and "5 of 5 annotations have no mask; give --boxes" in done.stderr
    assert run_tool("generate_masks.py", *arguments, "--boxes").returncode == 0
    store = open_store(tmp_path / "maps")
    for record, objects in zip(list_images(spec), OBJECTS):
        label_map = store.read(record["key"])
        assert len(np.unique(label_map)) == 1 + len(objects)
        for _, x, y, width, height in objects:
            assert len(np.unique(label_map[y : y + height, x : x + width])) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            each(lambda one: one.update(segmentation=[[value / 96 for value in one["segmentation"][0]]])),
            "its mask is narrower than a pixel",
        ),
        (
            each(lambda one: one.update(segmentation=[[value * 1.5 for value in one["segmentation"][0]]])),
            "its mask reaches out of the image",
        ),
        (lambda content: content.update(annotations=[]), "found no annotations"),
    ],
)
def test_annotations_that_would_leave_images_without_their_regions_are_refused(change, message, run_tool, tmp_path):
    arguments = (write_coco(tmp_path, change), tmp_path / "maps", "--generator", "annotations", "--workers", 1)
    done = run_tool("generate_masks.py", *arguments)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "maps").exists()


def test_wrong_boxes_do_not_matter_beside_masks(run_tool, tmp_path):
    spec = write_coco(tmp_path, each(lambda one: one.update(bbox=[500, 500, 0.1, 0.1])))
    assert run_tool("generate_masks.py", spec, tmp_path / "maps", "--generator", "annotations", "--workers", 1).returncode == 0


def test_no_next_step_is_recommended_where_nothing_was_made(run_tool, tmp_path):
    spec = write_coco(tmp_path)
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"no image")
    done = run_tool("generate_masks.py", spec, tmp_path / "maps", "--workers", 1)
    assert done.returncode == 1 and "3 failed" in done.stdout and "train with" not in done.stdout


def test_a_sheet_of_images_with_boxes_needs_no_masks(run_tool, tmp_path):
    done = run_tool("visualize_masks.py", write_voc(tmp_path / "data"), "--output", tmp_path / "sheet.png", "--source", "fh")
    assert done.returncode == 0, done.stderr
    done = run_tool(
        "visualize_masks.py", write_voc(tmp_path / "more"), "--output", tmp_path / "sheet.png", "--source", "annotations boxes=true"
    )
    assert done.returncode == 0, done.stderr
