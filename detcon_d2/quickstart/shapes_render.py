"""Images of the built-in data set: shapes, clutter and their composition into one image.

Letters: S = side of the square image in pixels. Random numbers come only from the generator that a function receives.
"""

from typing import NamedTuple

import cv2
import numpy as np

from detcon_d2.quickstart.shapes_textures import MATERIALS, background_texture, material_texture, procedural_texture, rotation

CATEGORIES: tuple[str, ...] = ("disc", "ring", "square", "triangle", "star", "cross", "crescent", "heart")
"""Names of the categories; the COCO id of the i-th is i + 1."""

_RADIUS = (20.0, 44.0)
_OBJECTS = (1, 3)
_MIN_VISIBLE_FRACTION = 0.4
_MIN_VISIBLE_PIXELS = 100
_PLACEMENT_TRIES = 10
_SUBPIXEL_BITS = 4


class Scene(NamedTuple):
    """One image uint8 (S, S, 3), RGB, and the visible part of each of its K objects, bool (K, S, S), with indices into the names.

    No two masks overlap, and each has at least 100 pixels and 40 % of the object.
    """

    image: np.ndarray
    masks: np.ndarray
    categories: tuple[int, ...]
    materials: tuple[int, ...]


class _Piece(NamedTuple):
    """An opaque part of the scene: ``coverage`` float32 (S, S) in [0, 1] and texture; clutter has no category, material and area."""

    coverage: np.ndarray
    texture: np.ndarray
    category: int | None = None
    material: int | None = None
    area: float = 0.0

    @property
    def solid(self) -> np.ndarray:
        return self.coverage >= 0.5


def _arc(radius: float, start: float = 0.0, stop: float = 2 * np.pi, points: int = 48) -> np.ndarray:
    angle = np.linspace(start, stop, points)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _star() -> np.ndarray:
    angle = np.arange(10) * np.pi / 5 - np.pi / 2
    return np.where(np.arange(10) % 2 == 0, 1.0, 0.45)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _cross(arm: float = 0.36) -> np.ndarray:
    corner = [(1, -arm), (1, arm), (arm, arm)]
    turns = [np.array(corner) @ np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]) for t in np.arange(4) * np.pi / 2]
    return np.concatenate(turns)


def _crescent(shift: float = 0.5, inner: float = 0.75) -> np.ndarray:
    # The two circles meet at (x, +-y). The outer arc takes the long way round, the inner arc comes back.
    x = (1 + shift**2 - inner**2) / (2 * shift)
    outer_angle, inner_angle = np.arccos(x), np.arccos((x - shift) / inner)
    back = _arc(inner, 2 * np.pi - inner_angle, inner_angle) + (shift, 0.0)
    return np.concatenate([_arc(1.0, outer_angle, 2 * np.pi - outer_angle), back])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1) / 16.5


_OUTLINES: dict[str, list[np.ndarray]] = {
    "disc": [_arc(1.0)],
    "ring": [_arc(1.0), _arc(0.55)],
    "square": [0.9 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=float)],
    "triangle": [1.1 * np.stack([np.cos(np.arange(3) * 2 * np.pi / 3), np.sin(np.arange(3) * 2 * np.pi / 3)], axis=1)],
    "star": [1.1 * _star()],
    "cross": [_cross()],
    "crescent": [_crescent()],
    "heart": [_heart()],
}


def draw_shape(category: str, size: int, center: tuple[float, float], radius: float, angle: float) -> np.ndarray:
    """Coverage of a shape of ``CATEGORIES``: float32 (S, S) in [0, 1], antialiased; parts outside of the image are cut off.

    Center (x, y) and radius of the circle that the shape roughly fills are in pixels, the angle of rotation in radians.
    """
    return _fill([radius * outline @ rotation(angle) + center for outline in _OUTLINES[category]], size)


def _fill(outlines: list[np.ndarray], size: int) -> np.ndarray:
    scale = 4
    canvas = np.zeros((scale * size, scale * size), np.uint8)
    fixed = [np.round((outline * scale) * 2**_SUBPIXEL_BITS).astype(np.int32) for outline in outlines]
    # Several outlines in one call are filled by the even-odd rule, which makes the hole of the ring.
    cv2.fillPoly(canvas, fixed, 1, shift=_SUBPIXEL_BITS)
    return cv2.resize(canvas.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)


def _object(half: str, size: int, agreement: float, rng: np.random.Generator) -> _Piece:
    category = int(rng.integers(len(CATEGORIES)))
    material = category if rng.random() < agreement else int(rng.integers(len(MATERIALS)))
    radius, angle = rng.uniform(*_RADIUS) * size / 128, rng.uniform(0, 2 * np.pi)
    center = rng.uniform(0.4 * radius, size - 0.4 * radius, 2)
    coverage = draw_shape(CATEGORIES[category], size, tuple(center), radius, angle)
    # Parts of the shape outside of the image count as hidden: the area of the whole shape is measured in the middle, where it fits.
    whole = draw_shape(CATEGORIES[category], size, (size / 2, size / 2), radius, angle)
    return _Piece(coverage, material_texture(material, half, size, rng), category, material, float(whole.sum()))


def _clutter(half: str, size: int, rng: np.random.Generator) -> _Piece:
    corners = int(rng.integers(3, 7))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(6, 24, (corners, 1)) * size / 128
    coverage = _fill([radius * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.uniform(0, size, 2)], size)
    texture = procedural_texture(size, rng) if rng.random() < 0.5 else material_texture(int(rng.integers(len(MATERIALS))), half, size, rng)
    return _Piece(coverage, texture)


def _visible_objects(pieces: list[_Piece], size: int) -> list[tuple[np.ndarray, _Piece]]:
    """Each object of the pieces, with its part, bool (S, S), that no later piece hides."""
    hidden, objects = np.zeros((size, size), bool), []
    for piece in reversed(pieces):
        if piece.category is not None:
            objects.append((piece.solid & ~hidden, piece))
        hidden |= piece.solid
    return objects[::-1]


def _fits(pieces: list[_Piece], size: int) -> bool:
    """Whether enough of every object is visible: at least 100 pixels (of a 128 px image) and 40 % of the object."""
    least = _MIN_VISIBLE_PIXELS * (size / 128) ** 2
    return all(mask.sum() >= max(least, _MIN_VISIBLE_FRACTION * piece.area) for mask, piece in _visible_objects(pieces, size))


def render_scene(size: int, half: str, agreement: float, rng: np.random.Generator) -> Scene:
    """Draw one image: a background, 1 to 3 objects and up to 2 polygons of clutter in random depth order, and noise.

    A piece that would hide an object beyond the limits of :class:`Scene` is drawn again elsewhere, and left out after ten tries. So every
    object of the image is in the result. Lengths scale with S / 128. The half of the photographs is "train" or "val". The agreement is the
    probability that an object gets the material of its category; otherwise its material is uniform over all.
    """
    kinds = ["object"] * int(rng.integers(*_OBJECTS, endpoint=True)) + ["clutter"] * int(rng.integers(0, 3))
    pieces: list[_Piece] = []
    image = background_texture(half, size, rng)
    for kind in rng.permutation(kinds):
        for _ in range(_PLACEMENT_TRIES):
            piece = _object(half, size, agreement, rng) if kind == "object" else _clutter(half, size, rng)
            if _fits([*pieces, piece], size):
                pieces.append(piece)
                image += piece.coverage[..., None] * (piece.texture - image)
                break
    image += rng.normal(0, rng.uniform(2, 8), image.shape)
    image = np.clip(np.round(image), 0, 255).astype(np.uint8)
    objects = _visible_objects(pieces, size)
    masks = np.stack([mask for mask, _ in objects]) if objects else np.zeros((0, size, size), bool)
    return Scene(image, masks, tuple(piece.category for _, piece in objects), tuple(piece.material for _, piece in objects))
