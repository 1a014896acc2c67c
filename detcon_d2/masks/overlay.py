"""Regions in colour over an image, and sheets of captioned pictures in rows and columns."""

import colorsys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import skimage.segmentation  # loads its modules on first use, so training does not pay for them
from PIL import Image, ImageDraw, ImageFont

from detcon_d2.io.atomic import atomic_file
from detcon_d2.masks.cells import NO_REGION

_NO_REGION_COLOR = (70, 70, 70)
_OPACITY = 0.6
_GAP, _MARGIN = 10, 14
_TITLE, _HEADING, _CAPTION = 18, 15, 13
_BACKGROUND, _INK, _PALE = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def region_color(region: int) -> tuple[int, int, int]:
    """RGB of a region id, always the same; consecutive ids differ most in hue, 65535 (no region) is dark grey."""
    if region == NO_REGION:
        return _NO_REGION_COLOR
    # Steps of the golden ratio keep the hues of the first n ids apart; saturation and value separate the ids with similar hues.
    rgb = colorsys.hsv_to_rgb(region * 0.618034 % 1, (0.95, 0.6, 0.8)[region % 3], (1.0, 0.95, 0.7)[region // 3 % 3])
    return tuple(round(255 * channel) for channel in rgb)


def overlay_regions(image: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    """Colours of the regions (H, W) over an RGB image uint8 (H, W, 3), with white boundaries: uint8 (H, W, 3)."""
    ids, inverse = np.unique(label_map, return_inverse=True)
    colors = np.array([region_color(int(region)) for region in ids], dtype=np.float32)[inverse.reshape(label_map.shape)]
    # Blend with grey of medium brightness, so that a region has the same colour in dark, bright or tinted views.
    gray = image.astype(np.float32).mean(axis=2, keepdims=True)
    gray = (gray - gray.mean() + 128).clip(0, 255)
    blended = (_OPACITY * colors + (1 - _OPACITY) * gray).astype(np.uint8)
    # Mode "inner" would take id 0 for background.
    blended[skimage.segmentation.find_boundaries(label_map, mode="thick")] = 255
    return blended


def count_regions(label_map: np.ndarray) -> str:
    """``12 regions``, not counting 65535."""
    count = len(np.setdiff1d(label_map, [NO_REGION]))
    return f"{count} region{'' if count == 1 else 's'}"


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """An image uint8 (H, W, 3) or label map uint16 (H, W), resized so that its longer side has ``side`` pixels; at least 1 x 1."""
    height, width = image.shape[:2]
    size = tuple(max(1, round(side * length / max(width, height))) for length in (width, height))
    shrink = image.ndim == 3 and max(width, height) > side
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_NEAREST_EXACT)


def draw_sheet(title: str, headings: Sequence[str], rows: Sequence[Sequence[tuple[np.ndarray, str]]], side: int) -> np.ndarray:
    """Pictures in rows and columns with captions below them: uint8 (height, width, 3) RGB.

    Args:
        title: above the columns.
        headings: of the columns; like the title, one that is too long continues in another line.
        rows: at least one; of each column a picture uint8 (H, W, 3) and its caption.
        side: width of a column and largest width of a picture, pixels.
    """
    width = 2 * _MARGIN + len(headings) * (side + _GAP) - _GAP
    titles, wrapped = _wrapped(title, width - 2 * _MARGIN, _TITLE), [_wrapped(text, side, _HEADING) for text in headings]
    title_height, line_height, below = _TITLE + 5, _HEADING + 5, _CAPTION + 8 + _GAP
    header = _MARGIN + title_height * len(titles) + 7 + line_height * max(map(len, wrapped)) + 4
    heights = [max(picture.shape[0] for picture, _ in row) for row in rows]
    sheet = Image.new("RGB", (width, header + sum(heights) + below * len(rows) + _MARGIN - _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, text in enumerate(titles):
        draw.text((_MARGIN, _MARGIN - 4 + title_height * index), text, fill=_INK, font=font(_TITLE))
    for column, lines in enumerate(wrapped):
        for index, text in enumerate(lines):
            position = _MARGIN + column * (side + _GAP), header - 4 - line_height * (len(lines) - index)
            draw.text(position, text, fill=_INK, font=font(_HEADING))
    top = header
    for row, height in zip(rows, heights):
        for column, (picture, caption) in enumerate(row):
            left = _MARGIN + column * (side + _GAP)
            sheet.paste(Image.fromarray(picture), (left, top))
            draw.text((left, top + height + 2), shorten(caption, side, _CAPTION), fill=_PALE, font=font(_CAPTION))
        top += height + below
    return np.asarray(sheet)


def _wrapped(text: str, width: int, size: int) -> list[str]:
    """The text in lines of this width in pixels, for a font of this size."""
    # Most characters are narrower than 0.6 of the size of the font; longer lines are cut.
    return [shorten(line, width, size) for line in textwrap.wrap(text, width * 5 // 3 // size)]


def write_sheet(sheet: np.ndarray, path: str | Path) -> None:
    """Write a sheet atomically. Raises ValueError as :func:`picture_format`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        Image.fromarray(sheet).save(file, picture_format(path))


def picture_format(path: str | Path) -> str:
    """Pillow's name of the format of a picture to write. Raises ValueError unless the name ends in .png, .jpg or .jpeg."""
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(f"picture: found {path}; expected the name of a .png or .jpg")
    return _FORMATS[suffix]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of Pillow, which every installation has; ``size`` in pixels."""
    return ImageFont.load_default(size)


def shorten(text: str, width: int, size: int) -> str:
    """The text, cut to end in "..." if it is wider than ``width`` pixels in the font of that size."""
    short = text
    while text and font(size).getlength(short) > width:
        text, short = text[:-1], f"{text[:-1]}..."
    return short
