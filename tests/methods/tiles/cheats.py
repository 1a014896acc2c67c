"""Pictures without content, in which only a planted flaw shows where a tile was, and solvers that look for this flaw alone."""

import cv2
import numpy as np
import torch

from detcon_d2 import d2
from detcon_d2.views.samplers import SampleMaker
from tests.methods.test_contract import build

SIDE = 192
# Three cells of 64 pixels in pictures that are not resized.
GRID = {"DETCON__PATCHES__RESIZE": SIDE, "DETCON__PATCHES__CROP": SIDE, "DETCON__PATCHES__TILE": 48}
PLAIN = {f"DETCON__AUG__{name}_PROB": "(0.0, 0.0)" for name in ("JITTER", "GRAY", "BLUR", "SOLARIZE")}
PLAIN |= {"DETCON__VIEWS__FLIP_PROB": 0.0, "DETCON__PATCHES__NORMALIZE": "none"}


def noise(seed: int, sigma: float = 2.0) -> np.ndarray:
    """float32 (SIDE, SIDE): smooth grey noise of mean 128 and deviation 30, with nothing to learn."""
    picture = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((SIDE, SIDE)).astype(np.float32), (0, 0), sigma)
    return 128 + 30 * (picture - picture.mean()) / picture.std()


def magnified(channel: np.ndarray, factor: float) -> np.ndarray:
    """About the picture's centre."""
    centre = (SIDE - 1) / 2
    matrix = np.array([[factor, 0, centre * (1 - factor)], [0, factor, centre * (1 - factor)]], np.float32)
    return cv2.warpAffine(channel, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def aberrated(seed: int, red: float, green: float, blue: float) -> np.ndarray:
    """uint8 (SIDE, SIDE, 3): one noise, each channel magnified by its own factor, as a lens does."""
    picture = noise(seed)
    channels = [magnified(picture, factor) for factor in (red, green, blue)]
    return np.stack(channels, axis=2).round().clip(0, 255).astype(np.uint8)


def ramp(seed: int) -> np.ndarray:
    """uint8 (SIDE, SIDE, 3): grey noise that gets brighter from left to right."""
    picture = noise(seed) + np.linspace(-40, 40, SIDE)
    return np.repeat(picture.round().clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def grey(seed: int) -> np.ndarray:
    """uint8 (SIDE, SIDE, 3): noise alone."""
    return np.repeat(noise(seed).round().clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def tiles_of(method: str, photos: object, pictures: list[np.ndarray], **overrides: object) -> tuple[torch.Tensor, list[dict]]:
    """The tiles (N, 9, 3, t, t) that the encoder would get of pictures, by the method's own samples and normalisation; and the samples.

    Without normalisation by tile, they are on the scale 0..255, so that the channels of grey are equal.
    """
    _, model, samples, _ = build(method, photos, **GRID | PLAIN | {"DETCON__LOG_PERIOD": 1000} | overrides)
    return tiles_by(model, samples, pictures)


def tiles_by(model: torch.nn.Module, samples: SampleMaker, pictures: list[np.ndarray]) -> tuple[torch.Tensor, list[dict]]:
    batch = [samples(picture, None, position) for position, picture in enumerate(pictures)]
    with d2.EventStorage(), torch.no_grad():
        tiles = model.tiles_of(batch)
        return (tiles * model.pixel_std if model.normalize == "none" else tiles).double(), batch


def displacements(tiles: torch.Tensor, first: tuple[float, float, float], second: tuple[float, float, float]) -> torch.Tensor:
    """By how many pixels (x, y) one mixture of the channels is displaced from another, (N, T, 2): least squares on the gradients.

    Rounded to 1e-5 pixels: less is the rounding of the tiles' own numbers.
    """
    one, other = (torch.einsum("c,ntchw->nthw", torch.tensor(weights, dtype=tiles.dtype), tiles) for weights in (first, second))
    down, right = torch.gradient((one + other) / 2, dim=(2, 3))
    gradients = torch.stack([right, down], dim=-1).flatten(2, 3)
    # A difference in brightness is no displacement.
    difference = (one - other).flatten(2, 3)[..., None]
    difference = difference - difference.mean(2, keepdim=True)
    gradients = gradients - gradients.mean(2, keepdim=True)
    normal = gradients.mT @ gradients + 1e-9 * torch.eye(2, dtype=tiles.dtype)
    return -torch.linalg.solve(normal, gradients.mT @ difference)[..., 0].round(decimals=5)


def within(accuracy: float, chance: float, count: int) -> bool:
    """Whether an accuracy over ``count`` answers is within three standard deviations of chance."""
    return abs(accuracy - chance) <= 3 * (chance * (1 - chance) / count) ** 0.5
