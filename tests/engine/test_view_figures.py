"""A run is warned of views from which nothing can be learned, with the key that mends them."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from detcon_d2 import d2
from detcon_d2.engine import view_figures
from detcon_d2.engine.view_figures import ViewFigures, ViewWarningsHook, view_warnings
from detcon_d2.engine.visualize import collect_rows, measure_views
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.modeling.metrics import constant_views
from tests.painted import painted_image


def test_a_view_is_nearly_constant_if_no_channel_varies():
    images = torch.full((4, 3, 8, 8), 100.0)
    images[1, 2, ::2] += 5  # a standard deviation of 2.5 in one channel
    images[2, :, ::2] += 3  # of 1.5 in all
    assert constant_views(images).item() == 0.75
    assert constant_views(images / 255, 255.0).item() == 0.75
    assert constant_views(images, torch.tensor([1.0, 1.0, 0.5])).item() == 1


def test_figures_count_regions_by_pixels_and_by_cells(empty_set, make_cfg):
    """One region of a single pixel row loses its cells; NO_REGION counts as none."""
    label_map = np.zeros((32, 32), np.uint16)
    label_map[5], label_map[16:], label_map[:, 30:] = 1, 2, NO_REGION
    empty_set.add("image.png", Image.fromarray(painted_image(32, 32)), label_map)
    whole = ("DETCON.VIEWS.CROP_AREA", (1.0, 1.0), "DETCON.VIEWS.CROP_ASPECT", (1.0, 1.0), "DETCON.VIEWS.SIZE", 64)
    figures = measure_views(collect_rows(make_cfg(empty_set, *whole), 3))
    assert (figures.regions, figures.kept) == (3, 2) and figures.lost == pytest.approx(1 / 3)
    assert figures.constant_crops == 0
    assert "regions per view: 3.0, 2.0 with a cell (33% lost)" in figures.line()


def test_dark_images_lose_their_contrast_under_additive_brightness(empty_set, make_cfg):
    rng = np.random.default_rng(0)
    for number in range(4):
        dark = rng.integers(0, 25, (40, 40, 3)).astype(np.uint8)
        empty_set.add(f"{number}.png", Image.fromarray(dark), np.zeros((40, 40), np.uint16))
    shares = {}
    for operators in ("dm_pix", "torchvision"):
        cfg = make_cfg(empty_set, "DETCON.AUG.OPERATORS", operators, "DETCON.AUG.JITTER_PROB", (1.0, 1.0))
        figures = measure_views(collect_rows(cfg, 40))
        shares[operators] = figures.constant
        if operators == "dm_pix":
            assert any("DETCON.AUG.OPERATORS" in line for line in view_warnings(figures, cfg))
    assert shares["dm_pix"] > 0.2 > 0.05 > shares["torchvision"]


@pytest.mark.parametrize(
    ("figures", "opts", "remedy"),
    [
        (ViewFigures(0.2, 0.01), (), "DETCON.AUG.OPERATORS dm_pix adds"),
        (ViewFigures(0.2, 0.01), ("DETCON.AUG.OPERATORS", "torchvision"), "Lower DETCON.AUG.BRIGHTNESS (0.4)"),
        (ViewFigures(0.2, 0.15), (), "DETCON.VIEWS.CROP_AREA"),
        (ViewFigures(0.0, 0.0, 10, 3), (), "raise DETCON.VIEWS.SIZE (32), or make larger regions"),
        (ViewFigures(0.0, 0.0, 10, 3), ("DETCON.MASKS.SOURCE", "grid"), "lower DETCON.MASKS.GRID"),
        (ViewFigures(0.0, 0.0, 1.5, 1.4), (), "make smaller regions"),
        (ViewFigures(0.0, 0.0, 1, 1), ("DETCON.MASKS.SOURCE", "grid"), "raise DETCON.MASKS.GRID"),
        (ViewFigures(0.0, 0.0, 1, 1), ("DETCON.MASKS.SOURCE", "grid", "DETCON.MASKS.GRID", 1), None),
        (ViewFigures(0.05, 0.05, 10, 8), (), None),
        (ViewFigures(0.05), (), None),
    ],
)
def test_a_warning_names_the_key_that_mends_it(painted_set, make_cfg, figures, opts, remedy):
    lines = view_warnings(figures, make_cfg(painted_set, *opts))
    assert len(lines) == (remedy is not None) and (remedy is None or remedy in lines[0])


@pytest.mark.parametrize(("constant", "warnings"), [(0.5, 1), (0.01, 0)])
def test_a_run_is_warned_once_when_enough_views_were_seen(painted_set, make_cfg, monkeypatch, constant, warnings):
    monkeypatch.setattr(view_figures, "logger", logger := Mock())
    hook = ViewWarningsHook(make_cfg(painted_set, "SOLVER.IMS_PER_BATCH", 64, "DETCON.LOG_PERIOD", 2))
    hook.trainer = trainer = Mock()
    with d2.EventStorage() as trainer.storage:
        for trainer.iter in range(10):
            trainer.storage.put_scalar("learning/constant_views", constant)
            hook.after_step()
            assert logger.warning.call_count == (warnings if trainer.iter >= 3 else 0)
