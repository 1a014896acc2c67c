"""The sheet shows what training sees, with one colour a region."""

import functools
import logging

import numpy as np
import pytest
from PIL import Image

from detcon_d2.engine import visualize
from detcon_d2.engine.visualize import collect_rows, render_sheet, write_sheet
from detcon_d2.masks.overlay import overlay_regions, region_color
from tests.conftest import REPO
from tests.data.samples import loader_of
from tests.data.test_mapper import assert_equal_samples
from tests.painted import painted_image


def test_rows_are_what_training_shows_at_these_positions(painted_set, make_cfg):
    cfg = make_cfg(painted_set)
    (batch,) = (batch for batch, _ in zip(loader_of(cfg, stride=32, start_iteration=2), range(1)))
    for row, sample in zip(collect_rows(cfg, 4, start_position=8), batch, strict=True):
        assert_equal_samples(row.sample, sample)
        assert row.image.shape[:2] == row.label_map.shape == (sample["height"], sample["width"])


def test_an_image_that_cannot_be_read_is_treated_as_in_training(painted_set, make_cfg, tmp_path):
    broken = painted_set.folder / "a" / "4.png"
    broken.write_bytes(b"")
    cfg = make_cfg(painted_set)
    with pytest.raises(ValueError, match=r"a/4\.png: the file is empty .*ON_BAD_IMAGE skip"):
        write_sheet(cfg, str(tmp_path / "sheet.png"), 12)
    cfg.DETCON.ON_BAD_IMAGE = "skip"
    batches = (batch for batch, _ in zip(loader_of(cfg, stride=32), range(3)))
    for row, sample in zip(collect_rows(cfg, 12), (sample for batch in batches for sample in batch), strict=True):
        assert_equal_samples(row.sample, sample)
    assert write_sheet(cfg, str(tmp_path / "sheet.png"), 12)


def test_neighbouring_ids_have_distinct_colors_and_no_region_is_grey():
    colors = np.array([region_color(region) for region in range(40)], dtype=float)
    distances = np.abs(colors[:, None] - colors[None]).sum(axis=2) + 1000 * np.eye(40)
    assert distances.min() > 20
    assert np.diag(distances, 1).min() > 100
    assert len(set(region_color(65535))) == 1


def test_a_region_keeps_its_color_in_dark_and_bright_views():
    labels = np.zeros((20, 20), np.uint16)
    dark, bright = (overlay_regions(np.full((20, 20, 3), value, np.uint8), labels) for value in (5, 250))
    np.testing.assert_array_equal(dark, bright)


def test_boundaries_are_drawn_between_regions_only():
    labels = np.zeros((20, 20), np.uint16)
    labels[:, 10:] = 7
    overlay = overlay_regions(np.full((20, 20, 3), 128, np.uint8), labels)
    white = (overlay == 255).all(axis=2)
    assert white[:, 9:11].all() and not white[:, :9].any() and not white[:, 11:].any()
    assert (overlay[0, 0] != overlay[0, 19]).any()


def test_views_without_a_region_are_drawn(empty_set, make_cfg):
    empty_set.add("image.png", Image.fromarray(painted_image(30, 40)), np.full((30, 40), 65535, np.uint16))
    assert render_sheet(collect_rows(make_cfg(empty_set), 1), "").any()


@pytest.mark.parametrize(("dilation", "cells"), [(1, (7, 7)), (2, (14, 14))])
def test_regions_compete_for_the_cells_of_the_features(painted_set, make_cfg, dilation, cells):
    cfg = make_cfg(painted_set, "DETCON.VIEWS.SIZE", 224, "MODEL.RESNETS.RES5_DILATION", dilation)
    (row,) = collect_rows(cfg, 1)
    assert row.sample["views"][0]["cells"].shape == cells


def test_a_sheet_is_written_atomically_into_a_new_folder(painted_set, make_cfg, tmp_path):
    output = tmp_path / "new" / "sheet.png"
    line, figures, *_ = write_sheet(make_cfg(painted_set), str(output), 3)
    assert "regions per view" in figures
    assert "3 images" in line and [path.name for path in output.parent.iterdir()] == ["sheet.png"]
    with Image.open(output) as image:
        assert f"{image.width} x {image.height}" in line
    with pytest.raises(ValueError, match="0 images from position 0; expected at least 1"):
        write_sheet(make_cfg(painted_set), str(output), 0)


def test_the_tool_draws_and_explains(painted_set, tmp_path, run_tool, monkeypatch, caplog):
    monkeypatch.setattr(visualize, "FIGURE_IMAGES", 4)
    # Under pytest the root logger has handlers, with which basicConfig does nothing.
    monkeypatch.setattr(logging, "basicConfig", lambda level, **_: caplog.set_level(level))
    output = tmp_path / "sheet.jpg"
    (painted_set.folder / "phone.heic").touch()
    opts = ["INPUT.FORMAT", "RGB", "SEED", "1", "DATASETS.TRAIN", f"('{painted_set.name}',)", "DETCON.MASKS.ROOTS"]
    tool = functools.partial(
        run_tool, "visualize_views.py", "--config-file", REPO / "configs/Base-DetCon.yaml", "--output", output, "--num-images", "2", *opts
    )
    done = tool(f"('{painted_set.masks}',)")
    assert done.returncode == 0 and str(output) in done.stdout and output.stat().st_size > 10000, done.stderr
    assert "left out: 1 x .heic. To take images of these kinds along, convert them" in caplog.text
    failed = tool("('/nowhere',)")
    assert failed.returncode == 2 and "generate_masks.py" in failed.stderr and "Traceback" not in failed.stderr
