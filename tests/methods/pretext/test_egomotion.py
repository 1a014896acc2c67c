"""The second view shows what the movement says, both movements stay within the crop, and both views are equally sharp."""

import cv2
import numpy as np
import pytest
import torch

from detcon_d2.methods.pretext.egomotion import LARGEST
from detcon_d2.modeling.heads import similarities
from tests.methods.test_contract import build

PLAIN = {f"DETCON__AUG__{name}_PROB": "(0.0, 0.0)" for name in ("JITTER", "GRAY", "BLUR", "SOLARIZE")}
WHOLE = PLAIN | {"DETCON__VIEWS__CROP_AREA": "(1.0, 1.0)", "DETCON__VIEWS__CROP_ASPECT": "(1.0, 1.0)", "DETCON__VIEWS__FLIP_PROB": 0.0}


def coordinates(size: int) -> np.ndarray:
    """uint8 (size, size, 3): x in red and y in green, 0..255."""
    x, y = np.meshgrid(*[np.linspace(0, 255, size)] * 2)
    return np.stack([x, y, np.zeros_like(x)], 2).round().astype(np.uint8)


def similarity(view: torch.Tensor, crop: int) -> np.ndarray:
    """(right, down, turn, zoom) of a view of coordinates, by least squares: in parts of the view's side, radians, logarithm."""
    size = view.shape[-1]
    y, x = np.mgrid[:size, :size].reshape(2, -1) - (size - 1) / 2
    places = (view[:2].double().numpy().reshape(2, -1) * (crop - 1)) - (crop - 1) / 2
    zeros, ones = np.zeros_like(x), np.ones_like(x)
    system = np.concatenate([np.stack([x, -y, ones, zeros], 1), np.stack([y, x, zeros, ones], 1)])
    a, b, right, down = np.linalg.lstsq(system, places.flatten(), rcond=None)[0]
    return np.array([right / size, down / size, np.arctan2(b, a), np.log(np.hypot(a, b))])


def test_the_label_is_the_movement_between_the_views(photos):
    _, _, samples, _ = build("Egomotion", photos, **WHOLE)
    crop = samples.geometry[0].size
    image, width = coordinates(crop), 2 * LARGEST / samples.bins
    for position in range(20):
        sample = samples(image, None, position)
        first, second = (similarity(view["image"], crop) for view in sample["views"])
        bins = np.floor((second - first + LARGEST) / width + 1e-2 * np.sign(np.arange(4) - 9)).clip(0, samples.bins - 1)
        # Rounding to 8 bits may move what is at the edge of a bin.
        assert np.abs(bins - sample["movement"].numpy()).max() <= 1 and (bins == sample["movement"].numpy()).sum() >= 3


def test_no_movement_leaves_the_crop(photos):
    _, _, samples, _ = build("Egomotion", photos)
    crop = samples.geometry[0].size
    planes = torch.from_numpy(coordinates(crop)).permute(2, 0, 1).float() / 255
    for signs in np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T:
        # The largest: a half of the range, and a quarter for the start.
        found = samples._moved(planes, 0.75 * signs * LARGEST)
        inner = np.pad(np.zeros((crop - 2, crop - 2)), 1, constant_values=1).astype(np.float32)
        border = samples._moved(torch.from_numpy(np.repeat(inner[None], 3, 0)), 0.75 * signs * LARGEST)
        assert border.max() < 1e-3 and found.isfinite().all()


def test_a_cell_is_most_similar_to_the_one_that_shows_the_same():
    features = torch.randn(2, 16, 4, 5, generator=torch.Generator().manual_seed(0))
    found = similarities(features, features.roll(1, dims=3)).unflatten(2, (4, 5)).unflatten(1, (4, 5))
    for row in range(4):
        for column in range(5):
            same = found[:, row, column, row, (column + 1) % 5]
            torch.testing.assert_close(same, torch.ones(2))
            assert (found[:, row, column].flatten(1).max(1).values == same).all()


def sharpness(view: torch.Tensor) -> float:
    pixels = view.mean(0).numpy()
    return float(np.abs(cv2.Laplacian(pixels, cv2.CV_32F)).mean())


def test_both_views_are_equally_sharp(photos):
    _, _, samples, _ = build("Egomotion", photos, **WHOLE)
    found = []
    for position in range(100):
        noise = np.random.default_rng(position).integers(0, 256, (samples.geometry[0].size,) * 2 + (1,)).astype(np.uint8).repeat(3, 2)
        found.append([sharpness(view["image"]) for view in samples(noise, None, position)["views"]])
    difference = np.subtract(*np.array(found).T)
    assert abs(difference.mean()) < 3 * difference.std() / 10


@pytest.mark.parametrize("bins", [3, 7])
def test_every_bin_is_sampled(photos, bins):
    _, _, samples, _ = build("Egomotion", photos, DETCON__EGOMOTION__BINS=bins)
    image = np.zeros((64, 64, 3), np.uint8)
    labels = torch.stack([samples(image, None, position)["movement"] for position in range(200)])
    assert labels.min() == 0 and labels.max() == bins - 1
    assert all((torch.bincount(labels[:, axis], minlength=bins) - 200 / bins).abs().max() < 40 for axis in range(4))
