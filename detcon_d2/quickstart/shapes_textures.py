"""Textures of the built-in data set: photographs of scikit-image cut in halves, materials, backgrounds and procedural patterns.

Letters: S = side of the square result in pixels. Random numbers come only from the generator that a function receives.
"""

from functools import cache
from importlib import resources

import cv2
import numpy as np

MATERIALS: tuple[str, ...] = ("brick", "grass", "gravel", "ihc", "coins", "text", "chelsea", "retina")
"""The material of the category at the same position: photographs of scikit-image, used for their texture."""

# Reduced so that an object of a few dozen pixels shows several elements of the texture.
_MATERIAL_SCALES = {"brick": 0.4, "gravel": 0.7, "coins": 0.6, "retina": 0.5, "text": 0.6}

# Only one view of the stereo pair: across the cut, the second view shows the same objects as the first.
BACKGROUNDS: tuple[str, ...] = ("astronaut", "coffee", "rocket", "camera", "moon", "clock_motion", "motorcycle_left", "hubble_deep_field")
"""Photographs of scikit-image that serve as backgrounds."""

_LIGHT = (0.6, 1.3)  # range of the factor of each colour channel
_GAP = 8  # pixels left out on each side of the cut, so that the halves are not neighbours


@cache
def load_half(name: str, half: str) -> np.ndarray:
    """The "train" or "val" half of a photograph of scikit-image's installed files: uint8 (H, W, 3) RGB, not writeable.

    They are the first and the second half along the longer side and share no pixel. Nothing is downloaded. Raises ValueError if the
    installed scikit-image lacks the file.
    """
    photo = _read_photo(name)
    if name == "retina":
        # Its corners are black.
        height, width = photo.shape[:2]
        photo = photo[height // 5 : -height // 5, width // 5 : -width // 5]
    axis = 0 if photo.shape[0] > photo.shape[1] else 1
    middle = photo.shape[axis] // 2
    kept = slice(0, middle - _GAP) if half == "train" else slice(middle + _GAP, None)
    result = np.ascontiguousarray(photo[kept] if axis == 0 else photo[:, kept])
    result.flags.writeable = False
    return result


def _read_photo(name: str) -> np.ndarray:
    folder = resources.files("skimage") / "data"
    for suffix in (".png", ".jpg"):
        entry = folder / (name + suffix)
        if entry.is_file():
            bgr = cv2.imdecode(np.frombuffer(entry.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
            return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    raise ValueError(f"the photograph {name!r} is not in {folder}; expected a scikit-image >= 0.22 from PyPI: pip install -U scikit-image.")


def rotation(angle: float) -> np.ndarray:
    """(2, 2) float64: ``points @ rotation(angle)`` turns rows (x, y) by ``angle`` radians."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _sample(photo: np.ndarray, size: int, scale: float, angle: float, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8 from a random place of the photograph, turned by ``angle`` and magnified by ``scale``, mirrored at its borders."""
    height, width = photo.shape[:2]
    center = rng.uniform((0.2 * width, 0.2 * height), (0.8 * width, 0.8 * height))
    linear = rotation(angle) / scale
    # Maps pixels of the result to pixels of the photograph.
    matrix = np.column_stack([linear, center - linear @ np.array([size / 2, size / 2])])
    return cv2.warpAffine(photo, matrix, (size, size), flags=cv2.INTER_AREA | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101)


def _random_color(rng: np.random.Generator, value: tuple[float, float]) -> np.ndarray:
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(0.1, 0.9), rng.uniform(*value)]]], np.float32)
    return 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def _duotone(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 (S, S, 3) in 0..255: a standardised grey image, mapped to the range from a random dark to a random bright colour or back."""
    level = np.clip(0.5 + 0.25 * (gray - gray.mean()) / max(float(gray.std()), 1.0), 0, 1)[..., None]
    colors = [_random_color(rng, (0.05, 0.45)), _random_color(rng, (0.6, 1.0))]
    dark, bright = colors if rng.random() < 0.5 else colors[::-1]
    return (1 - level) * dark + level * bright


@cache
def _material_photo(name: str, half: str) -> np.ndarray:
    scale = _MATERIAL_SCALES.get(name, 1.0)
    return cv2.resize(load_half(name, half), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def material_texture(index: int, half: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """float32 (S, S, 3) in 0..255: an upright crop of the ``index``-th material at a random scale, in light of a random colour."""
    crop = _sample(_material_photo(MATERIALS[index], half), size, rng.uniform(0.6, 1.1), 0.0, rng)
    return np.clip(crop * rng.uniform(*_LIGHT, 3).astype(np.float32), 0, 255)


def procedural_texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """float32 (S, S, 3) in 0..255: stripes, checks, dots or clouds of random period, direction and two colours."""
    period, angle = rng.uniform(6, 24), rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    u, v = (np.stack([x, y], axis=-1) @ rotation(angle).astype(np.float32)).transpose(2, 0, 1) * (2 * np.pi / period)
    kind = rng.integers(4)
    if kind == 0:
        wave = np.sin(u)
    elif kind == 1:
        wave = np.sign(np.sin(u) * np.sin(v))
    elif kind == 2:
        wave = np.where(np.cos(u) + np.cos(v) > 0.8, 1.0, -1.0)
    else:
        wave = cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), period / 3, borderType=cv2.BORDER_REFLECT_101)
    return _duotone(255 * wave.astype(np.float32), rng)


def background_texture(half: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """float32 (S, S, 3) in 0..255: a recoloured crop of a background photograph, or one time in five a procedural texture."""
    if rng.random() < 0.2:
        return procedural_texture(size, rng)
    photo = load_half(BACKGROUNDS[rng.integers(len(BACKGROUNDS))], half)
    crop = _sample(photo, size, rng.uniform(0.6, 1.6), rng.uniform(-np.pi, np.pi), rng).astype(np.float32)
    return np.clip(crop[..., rng.permutation(3)] * rng.uniform(*_LIGHT, 3), 0, 255)
