"""A contact sheet: images in rows, sources of regions side by side, what people drew at the end."""

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from detcon_d2.io.images import read_image
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.overlay import font, overlay_regions, shorten
from detcon_d2.masks.scoring.ground_truth import has_ground_truth, read_ground_truth
from detcon_d2.masks.scoring.score_report import named_layers
from detcon_d2.masks.scoring.scores import GroundTruth

PANEL = 288
"""Longer side of a picture in pixels."""
_GAP, _MARGIN = 10, 14
_TITLE, _HEADING, _CAPTION = 18, 15, 13
_BACKGROUND, _INK, _PALE = (255, 255, 255), (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True)
class ContactRow:
    """One image of a sheet.

    Attributes:
        name: below the image.
        image: uint8 (H, W, 3) RGB.
        label_maps: one integer (H, W) for each heading of the sheet; 65535 = no region.
    """

    name: str
    image: np.ndarray
    label_maps: list[np.ndarray]


def collect_contact_rows(sources: dict[str, RegionGenerator], records: list[dict]) -> tuple[list[str], list[ContactRow]]:
    """Make the regions of every source for every image, and add the ground truth of images that have one.

    Args:
        sources: title -> generator; one that makes several label maps an image has a column for each.
        records: dataset dicts; those of ``list_bsds`` and ``list_coco`` have ground truth. Of several people's the one with the median
            number of segments is shown.

    Returns:
        The headings and the rows.

    Raises:
        ValueError: an image, ground truth or label map that cannot be read, or of another size.
    """
    with_truth = all(map(has_ground_truth, records))
    headings, rows = [], []
    for record in records:
        image = read_image(record["file_name"])
        columns = [column for title, source in sources.items() for column in named_layers(title, source, image, record)]
        if with_truth:
            columns.append(("ground truth", _typical(read_ground_truth(record, *image.shape[:2]))))
        headings = [heading for heading, _ in columns]
        rows.append(ContactRow(record["key"], image, [label_map for _, label_map in columns]))
    return headings, rows


def render_contact_sheet(headings: list[str], rows: list[ContactRow], title: str) -> np.ndarray:
    """The sheet: uint8 (height, width, 3) RGB. The first column is the image, then a column for each heading.

    Under each picture stands the number of its regions. Headings that are too wide go on in further lines.

    Args:
        headings: of the columns of label maps.
        rows: at least one, each with as many label maps as there are headings.
        title: first line.
    """
    wrapped = [_wrap(text, PANEL) for text in ["image", *headings]]
    line_height = _HEADING + 5
    header = _MARGIN + _TITLE + 12 + line_height * max(map(len, wrapped)) + 4
    heights = [_fit(row.image)[1] for row in rows]
    below = _CAPTION + 8 + _GAP
    size = 2 * _MARGIN + len(wrapped) * (PANEL + _GAP) - _GAP, header + sum(heights) + below * len(rows) + _MARGIN - _GAP
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 4), shorten(title, sheet.width - 2 * _MARGIN, _TITLE), fill=_INK, font=font(_TITLE))
    for column, lines in enumerate(wrapped):
        for index, text in enumerate(lines):
            position = _MARGIN + column * (PANEL + _GAP), header - 4 - line_height * (len(lines) - index)
            draw.text(position, text, fill=_INK, font=font(_HEADING))
    top = header
    for row, height in zip(rows, heights):
        for column, (panel, caption) in enumerate(_panels(row)):
            left = _MARGIN + column * (PANEL + _GAP)
            sheet.paste(Image.fromarray(panel), (left, top))
            draw.text((left, top + height + 2), shorten(caption, PANEL, _CAPTION), fill=_PALE, font=font(_CAPTION))
        top += height + below
    return np.asarray(sheet)


def write_contact_sheet(sources: dict[str, RegionGenerator], records: list[dict], output: str | os.PathLike, title: str) -> str:
    """Collect, render and write a sheet; returns one line on what was written.

    Args:
        sources: as :func:`collect_contact_rows`.
        records: likewise, at least one.
        output: a .png or .jpg.
        title: first line of the sheet.

    Raises:
        ValueError: no images, another extension, or as :func:`collect_contact_rows`.
    """
    output = Path(output)
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg") or not records:
        raise ValueError(f"contact sheet: found {len(records)} images for {output}; expected at least one, and the name of a .png or .jpg")
    sheet = render_contact_sheet(*collect_contact_rows(sources, records), title)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f"{output.stem}.part{output.suffix}")
    Image.fromarray(sheet).save(part)
    os.replace(part, output)
    return f"{output}: {len(records)} images, {sheet.shape[1]} x {sheet.shape[0]} pixels"


def _typical(truths: list[GroundTruth]) -> np.ndarray:
    """The one with the (lower) median number of objects, the background being no region."""
    shown = [truth.segments if truth.background is None else _without(truth.segments, truth.background) for truth in truths]
    return sorted(shown, key=_count)[(len(shown) - 1) // 2]


def _without(segments: np.ndarray, background: int) -> np.ndarray:
    return np.where(segments == background, NO_REGION, segments)


def _fit(image: np.ndarray) -> tuple[int, int]:
    """Width and height of its picture."""
    height, width = image.shape[:2]
    return max(1, round(PANEL * width / max(width, height))), max(1, round(PANEL * height / max(width, height)))


def _panels(row: ContactRow) -> list[tuple[np.ndarray, str]]:
    (height, width), size = row.image.shape[:2], _fit(row.image)
    image = cv2.resize(row.image, size, interpolation=cv2.INTER_AREA if max(width, height) > PANEL else cv2.INTER_NEAREST_EXACT)
    panels = [(image, f"{row.name}, {width} x {height}")]
    for label_map in row.label_maps:
        small = cv2.resize(label_map.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST_EXACT)
        count = _count(label_map)
        panels.append((overlay_regions(image, small), f"{count} region{'' if count == 1 else 's'}"))
    return panels


def _count(label_map: np.ndarray) -> int:
    return len(np.setdiff1d(label_map, [NO_REGION]))


def _wrap(text: str, width: int) -> list[str]:
    """Lines that fit the width, broken at spaces; a word that does not fit is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(_HEADING).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shorten(word, width, _HEADING))
    return lines or [""]
