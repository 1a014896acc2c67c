"""Tracking by colour: an exact feature points to where the true motion comes from; without motion, or without colour that goes with
lightness, nothing is gained; and no colour is seen."""

import numpy as np
import pytest
import skimage.color
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.modeling.color_bins import PALETTE
from detcon_d2.quickstart.clips import ClipsConfig, draw_clip
from tests.methods.test_contract import batch_of, build

PLAIN = {f"DETCON__AUG__{name}_PROB": "(0.0, 0.0)" for name in ("JITTER", "GRAY", "BLUR", "SOLARIZE")}
PLAIN |= {"DETCON__LOG_PERIOD": 1000}
SIZE, STRIDE = 64, 8
GRID = SIZE // STRIDE
STEPS = ((0, 1), (1, 1), (-1, 2), (0, 0), (2, 0))
"""Motion from each frame to the next, (y, x) in cells."""


class Exact(nn.Module):
    """A cell's features are its own pixels, with mean 0 and length 20: they fit the same pixels best, by far."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        cells = F.pixel_unshuffle(images.mean(1, keepdim=True), STRIDE)
        return {"res5": 20 * F.normalize(cells - cells.mean(1, keepdim=True), dim=1)}


@pytest.fixture
def exact(photos):
    """The model with features that are as good as can be."""
    _, model, _, _ = build("TrackingByColor", photos, **PLAIN)
    model.encoder, model.heads["embedding"] = Exact(), nn.Identity()
    return model


def texture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Lightness (64, 64, 1), with a pattern of its own in every cell, and ab (64, 64, 2), of five colours of the palette, cell by cell."""
    rng = np.random.default_rng(seed)
    colors = np.array(PALETTE)[rng.integers(5, size=(GRID, GRID))]
    return rng.uniform(50, 60, (SIZE, SIZE, 1)), np.kron(colors, np.ones((STRIDE, STRIDE, 1)))


def clip_of(*frames: tuple[np.ndarray, np.ndarray]) -> dict:
    """The sample of frames of lightness and ab."""
    rgb = (skimage.color.lab2rgb(np.concatenate(frame, axis=2)).astype(np.float32) for frame in frames)
    return {"views": [{"image": torch.from_numpy(frame).permute(2, 0, 1)} for frame in rgb]}


def moved(plane: np.ndarray, step: tuple[int, int], time: int) -> np.ndarray:
    """By whole cells; what leaves comes back in at the other side."""
    return np.roll(plane, time * STRIDE * np.array(step), axis=(0, 1))


def moving(seed: int, step: tuple[int, int]) -> dict:
    """Four frames of a texture that moves."""
    return clip_of(*([moved(plane, step, time) for plane in texture(seed)] for time in range(4)))


def measured(model: nn.Module, batch: list[dict]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    with d2.EventStorage(), torch.no_grad():
        found = model.embed(batch)
        return found, {name: float(value) for name, value in model.metrics(found).items()}


def within(accuracy: float, chance: float, count: int) -> bool:
    return accuracy <= chance + 3 * (chance * (1 - chance) / count) ** 0.5


@pytest.mark.parametrize("step", STEPS)
def test_an_exact_pointer_is_the_true_motion(exact, step):
    found, metrics = measured(exact, [moving(seed, step) for seed in range(2)])
    log_pointer, *_ = exact.pointer_of(found)
    by_frame = log_pointer.view(2, GRID**2, 3, GRID**2).argmax(3)
    y, x = np.indices((GRID, GRID))
    for reference, steps in enumerate((3, 2, 1)):
        source = (y - steps * step[0]) % GRID * GRID + (x - steps * step[1]) % GRID
        assert (by_frame[:, :, reference] == torch.from_numpy(source).flatten()).all()
    assert metrics["accuracy"] == 1 and (metrics["chance"] < 0.7 or step == (0, 0))
    assert exact.criterion(found)["loss_tracking"] < 1e-3


def test_the_pointer_follows_the_objects_of_the_built_in_clips(exact):
    """Motion of whole pixels and cells that do not fit: most cells of textured clips still point to within a cell of the truth."""
    config = ClipsConfig(frames=4, size=SIZE, speed=(2.0, 3.0), noise=0.0)
    right, checked = 0, 0
    for index in range(12):
        clip = draw_clip(config, "train", index)
        views = [{"image": torch.tensor(frame / 255, dtype=torch.float32).permute(2, 0, 1)} for frame in clip.frames]
        found, _ = measured(exact, [{"views": views}])
        last = exact.pointer_of(found)[0][0].view(GRID**2, 3, GRID**2)[:, 2].argmax(1)
        y, x = np.indices((GRID, GRID)).reshape(2, -1)
        flow = clip.flow(3, -1)[STRIDE * y + STRIDE // 2, STRIDE * x + STRIDE // 2] / STRIDE
        pointed = np.stack([last % GRID, last // GRID], 1) - np.stack([x, y], 1)
        right += (np.abs(pointed - flow).max(1) <= 1).sum()
        checked += len(flow)
    # A pointer anywhere would be right for about 9 of 64 cells.
    assert right / checked > 0.5


def test_nothing_is_gained_where_nothing_moves(exact):
    found, metrics = measured(exact, [moving(seed, (0, 0)) for seed in range(4)])
    assert metrics["chance"] == metrics["accuracy"] == 1
    # The same features for all cells: the most frequent colour is copied, which is the other guess.
    blind = found | {"cells": torch.zeros_like(found["cells"])}
    assert exact.metrics(blind)["accuracy"] < 0.5


def test_nothing_is_gained_where_frames_have_nothing_in_common(exact):
    """Noise: each frame is another texture. And lightness that moves while colours are new in every frame."""
    noise, recolored = [], []
    for seed in range(0, 160, 4):
        frames = [texture(seed + time) for time in range(4)]
        noise.append(clip_of(*frames))
        recolored.append(clip_of(*((moved(frames[0][0], (1, 1), time), colors) for time, (_, colors) in enumerate(frames))))
    for clips in (noise, recolored):
        _, metrics = measured(exact, clips)
        assert within(metrics["accuracy"], metrics["chance"], 40 * GRID**2) and metrics["chance"] < 0.3


def test_the_encoder_sees_lightness_alone(photos):
    model, batch = batch_of("TrackingByColor", photos, 2, **PLAIN)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with d2.EventStorage():
        lab = model.to_lab(torch.cat(model.images_of(batch)))
        model.embed(batch)
    pixels = seen[0] * model.pixel_std + model.pixel_mean
    assert len(seen) == 1 and len(pixels) == 8
    torch.testing.assert_close(pixels, 2.55 * lab[:, :1].expand(-1, 3, -1, -1), rtol=0, atol=1e-3)


def test_frames_share_crop_and_colours_and_are_in_order(photos):
    _, _, samples, _ = build("TrackingByColor", photos)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    views = samples(image, None, 7, frames=[image] * 4)["views"]
    assert len(views) == 4 and all(torch.equal(view["image"], views[0]["image"]) for view in views)
    _, _, samples, _ = build("TrackingByColor", photos, **PLAIN)
    views = samples(image, None, 7, frames=[np.full_like(image, 50 * number) for number in range(4)])["views"]
    assert [round(float(view["image"].mean()) * 255 / 50) for view in views] == [0, 1, 2, 3]


def test_chance_is_the_better_of_two_guesses(exact):
    colors = torch.tensor([[[0, 0, 0, 1], [0, 0, 0, 1], [1, 2, 3, 0], [0, 0, 3, 4]]])
    found = {"cells": torch.zeros(1, 4, 4, 2), "colors": colors, "features": torch.ones(1, 2)}
    # Of the target's (0, 0, 3, 4) the most frequent colour 0 gets two, and the last reference's (1, 2, 3, 0) one.
    metrics = exact.metrics(found)
    assert metrics["chance"] == metrics["accuracy"] == 0.5
    found["colors"] = colors[:, [0, 1, 3, 3]]
    assert exact.metrics(found)["chance"] == 1 and colors.max() < len(PALETTE)


@pytest.mark.parametrize(("key", "value"), [("GAPS", "(0, 0)"), ("DIM", 0), ("TEMPERATURE", 0.0)])
def test_values_out_of_range_are_refused(key, value, photos):
    cfg, model, _, _ = build("TrackingByColor", photos)
    cfg.merge_from_list([f"DETCON.TRACKING.{key}", value])
    assert [name for fulfilled, name, *_ in model.check_config(cfg) if not fulfilled] == [f"DETCON.TRACKING.{key}"]
