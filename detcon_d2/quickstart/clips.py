"""The built-in data set "clips": textured shapes that move over a moving background, with masks, flow and order known exactly.

Every object and the background has a constant velocity. Frames are drawn from the textures and outlines of the built-in images; nothing is
downloaded. Letters: T frames, S = side of a frame in pixels, K objects.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.quickstart.shapes_render import CATEGORIES, draw_shape
from detcon_d2.quickstart.shapes_textures import MATERIALS, background_texture, material_texture

SPLITS = {"train": 200, "val": 100}
"""Numbers of clips."""
_RADIUS = (0.14, 0.22)  # of an object, in parts of S


@dataclass(frozen=True)
class ClipsConfig:
    """Everything that determines the pixels; clip i of a split depends on it, the split and i only.

    Attributes:
        frames, size: T and S.
        speed: range of the speeds of objects relative to the background, pixels per frame; (0, 0): they move with it.
        pan: largest speed of the background, pixels per frame; 0: the camera stands still.
        noise: standard deviation of the noise of each frame, in 0..255; 0: frames of a clip without motion are equal.
    """

    seed: int = 0
    frames: int = 12
    size: int = 96
    speed: tuple[float, float] = (1.5, 3.0)
    pan: float = 1.0
    noise: float = 2.0

    def __post_init__(self) -> None:
        travel = (self.frames - 1) * (self.speed[1] + self.pan)
        if self.frames < 2 or not 0 <= self.speed[0] <= self.speed[1] or self.pan < 0 or travel > 0.6 * self.size:
            raise ValueError(
                f"Clips of {self.frames} frames of {self.size} px with speeds {self.speed} and pan {self.pan}: objects travel up to "
                f"{travel:g} px; expected at least 2 frames, speeds >= 0 and at most 0.6 of the side, so that objects stay in the frame."
            )


class Clip(NamedTuple):
    """A clip and its ground truth.

    Attributes:
        frames: uint8 (T, S, S, 3) RGB, in the order of time.
        label_maps: uint16 (T, S, S): 0 background, k the visible part of object k in 1..K; a larger k is in front.
        velocities: float64 (K + 1, 2): (x, y) pixels per frame of the background and of each object.
        categories: of the objects, indices into :data:`CATEGORIES`.
    """

    frames: np.ndarray
    label_maps: np.ndarray
    velocities: np.ndarray
    categories: tuple[int, ...]

    def flow(self, frame: int, gap: int = 1) -> np.ndarray:
        """float32 (S, S, 2): by how many pixels (x, y) what each pixel shows moves from ``frame`` to ``frame + gap``."""
        return (gap * self.velocities[self.label_maps[frame]]).astype(np.float32)


def draw_clip(config: ClipsConfig, split: str, index: int) -> Clip:
    """Clip ``index`` of a split of :data:`SPLITS`, with one or two objects; the same arguments give the same bytes."""
    rng = np.random.default_rng([config.seed, list(SPLITS).index(split), index])
    size, times = config.size, np.arange(config.frames) - (config.frames - 1) / 2
    count = int(rng.integers(1, 3))
    pan = _velocity(rng, (0.0, config.pan))
    velocities = np.stack([pan, *(pan + _velocity(rng, config.speed) for _ in range(count))])
    # As large as what the camera passes.
    ground = background_texture(split, size + 2 * int(np.ceil(config.frames * config.pan)), rng)
    offset = (ground.shape[0] - size) / 2
    frames = np.stack([_moved(ground, velocities[0] * time - offset, size) for time in times])
    label_maps = np.zeros((config.frames, size, size), np.uint16)
    categories = tuple(int(one) for one in rng.integers(len(CATEGORIES), size=count))
    for number, category in enumerate(categories, 1):
        texture = material_texture(int(rng.integers(len(MATERIALS))), split, size, rng)
        radius, angle = size * rng.uniform(*_RADIUS), rng.uniform(0, 2 * np.pi)
        center = size / 2 + rng.uniform(-0.12, 0.12, 2) * size  # in the middle of the clip
        for frame, time in enumerate(times):
            shift = velocities[number] * time
            coverage = draw_shape(CATEGORIES[category], size, tuple(center + shift), radius, angle)
            frames[frame] += coverage[..., None] * (_moved(texture, shift, size) - frames[frame])
            label_maps[frame][coverage >= 0.5] = number
    frames += rng.normal(0, config.noise, frames.shape)
    return Clip(np.clip(np.round(frames), 0, 255).astype(np.uint8), label_maps, velocities, categories)


def _velocity(rng: np.random.Generator, speed: tuple[float, float]) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return rng.uniform(*speed) * np.array([np.cos(angle), np.sin(angle)])


def _moved(texture: np.ndarray, shift: np.ndarray, size: int) -> np.ndarray:
    """(S, S, 3): the texture moved by ``shift`` = (x, y) pixels, mirrored at its borders."""
    matrix = np.column_stack([np.eye(2), shift])
    return cv2.warpAffine(texture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def generate_clips(root: Path, config: ClipsConfig | None = None, counts: dict[str, int] | None = None) -> dict[str, Path]:
    """Write the data set, or the splits that are missing; returns the folder of each split, for ``video:FOLDER``.

    Frames are ``root/SPLIT/CATEGORY/CLIP/FRAME.png``, where the category is that of the object in front, and their label maps
    ``root/SPLIT-masks/CATEGORY/CLIP/FRAME.png``, 16 bits, for the generator "imported".

    Raises ValueError if ``root`` holds a split of another configuration.
    """
    config, counts = config or ClipsConfig(), counts or SPLITS
    for split, count in counts.items():
        done, expected = root / f"{split}.done", f"{asdict(config)} {count}"
        if done.exists() and (found := done.read_text("utf-8")) != expected:
            raise ValueError(f"{done} was generated with {found}; expected {expected}. Name another folder, or delete this one.")
        if done.exists():
            continue
        for index in range(count):
            clip = draw_clip(config, split, index)
            folder = Path(CATEGORIES[clip.categories[-1]]) / f"{index:04d}"
            for frame, (pixels, label_map) in enumerate(zip(clip.frames, clip.label_maps)):
                _write(root / split / folder / f"{frame:06d}.png", pixels[..., ::-1])
                _write(root / f"{split}-masks" / folder / f"{frame:06d}.png", label_map)
        write_bytes_atomically(done, expected.encode())
    return {split: root / split for split in counts}


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, cv2.imencode(".png", pixels)[1].tobytes())
