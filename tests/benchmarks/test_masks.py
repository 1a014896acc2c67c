"""The benchmark of masks on tiny images: every section gives numbers and a line, and other regions are an error."""

import json

import masks
import numpy as np
import pytest


@pytest.fixture
def tiny(monkeypatch) -> list[np.ndarray]:
    monkeypatch.setattr(masks, "SIZES", ((40, 30),))
    return [np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)]


@pytest.mark.parametrize("section", ["fh", "scales", "storage"])
def test_a_section_compares_two_things(section, tiny):
    (row,) = masks.SECTIONS[section](tiny, 3)
    assert row["size"] == "40x30" and row["ms"] > 0 and row["than_ms"] > 0
    assert row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
    assert f"ratio {row['ratio']:.2f}" in masks.describe_row(row) and ("np.argsort" in masks.describe_row(row)) == (section == "fh")


def test_processes_are_compared_by_wall_clock_and_by_processor_time(tiny, monkeypatch):
    costs = {1: np.array([0.04, 0.036]), 4: np.array([0.02, 0.048])}
    monkeypatch.setattr(masks, "_cost_per_image", lambda records, root, workers: costs[workers])
    (row,) = masks.compare_workers(tiny, 3, workers=4, images=4)
    assert (row["images_per_s"], row["than_images_per_s"], row["ratio"]) == pytest.approx((50, 25, 2))
    assert row["ratio_by_cpu"] == pytest.approx(4 * 0.036 / 0.048)
    assert row["imagenet_hours_on_16_cores"] == pytest.approx(1_281_167 * 0.036 / 3600 / 16)
    assert "ImageNet 0.8 h" in masks.describe_row(row)
    with pytest.raises(ValueError, match="found 1 process; expected at least 2"):
        next(masks.compare_workers(tiny, 3, workers=1))


def test_the_cost_of_an_image_is_that_of_a_run(tiny, tmp_path):
    records = masks._write_photos(tiny, tmp_path / "photos", 40)
    wall, cpu = masks._cost_per_image(records, tmp_path / "maps", 1)
    assert 0 < wall and 0 <= cpu
    assert len(list((tmp_path / "maps" / "40").glob("*.png"))) == 40


def test_other_regions_than_scikit_images_are_an_error(tiny, monkeypatch):
    monkeypatch.setattr(masks.felzenszwalb, "felzenszwalb", lambda image, **_: np.full(image.shape[:2], 7))
    with pytest.raises(RuntimeError, match="other regions than scikit-image"):
        list(masks.compare_fh(tiny, 1))


def test_the_tool_writes_what_it_prints(photos, tmp_path, run_tool, monkeypatch):
    for library in ("OMP", "OPENBLAS", "MKL"):  # the tool sets them, and this test restores them
        monkeypatch.setenv(f"{library}_NUM_THREADS", "1")
    options = ["--sections", "storage", "--rounds", "1", "--limit", "1"]
    done = run_tool("benchmarks/masks.py", *options, "--images", photos, "--json", tmp_path / "numbers.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "numbers.json").read_text())
    assert [row["section"] for row in written["rows"]] == ["storage", "storage"] and written["machine"]["fh"] == "numba"
    assert all(masks.describe_row(row) in done.stdout for row in written["rows"])
