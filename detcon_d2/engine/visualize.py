"""A sheet of what the network sees: images, their regions, and the views, with each region in the same colour everywhere."""

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from detcon_d2 import d2
from detcon_d2.data import PretrainingMapper, describe_masks, load_training_records
from detcon_d2.data.sampler import PositionSampler
from detcon_d2.io.atomic import atomic_file
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.masks.overlay import font, overlay_regions, shorten
from detcon_d2.methods.registry import pretraining_class, pretraining_names
from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.resize import nearest_indices

PANEL = 256
"""Side of a panel in pixels."""
_GAP, _HEADER, _CAPTION = 8, 48, 26
_BACKGROUND, _INK = (255, 255, 255), (20, 20, 20)
_VIEW_COLORS = ((230, 30, 30), (20, 90, 255), (20, 140, 40), (200, 120, 0))


@dataclass(frozen=True)
class SheetRow:
    """One image of a sheet.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        label_map: uint16 (H, W), or None for a method without regions.
        sample: what the loader makes of it, with float32 images.
        transforms: the crop of each view.
    """

    image: np.ndarray
    label_map: np.ndarray | None
    sample: dict
    transforms: list[ViewTransform]


@dataclass(frozen=True)
class Panel:
    """One picture of a row.

    Attributes:
        title: of its column.
        color: of the title.
        pixels: uint8 (height, width, 3), at most PANEL each side.
        caption: a line above it.
    """

    title: str
    color: tuple[int, int, int]
    pixels: np.ndarray
    caption: str


def collect_rows(cfg: "d2.CfgNode", num_images: int, start_position: int = 0) -> list[SheetRow]:
    """What training shows at positions ``start_position`` .. + ``num_images`` - 1, exactly.

    Raises:
        ValueError: config or data that cannot work, as in training.
    """
    method = pretraining_class(cfg.MODEL.META_ARCHITECTURE)
    if method is None:
        found = cfg.MODEL.META_ARCHITECTURE
        raise ValueError(f"MODEL.META_ARCHITECTURE is {found!r}; expected one of {', '.join(pretraining_names())}.")
    if method.Samples.uses_regions and cfg.DETCON.MASKS.SOURCE == "kmeans":
        raise ValueError("DETCON.MASKS.SOURCE is 'kmeans': regions that a model learns while training; expected 'files' or 'grid'.")
    records = load_training_records(cfg, regions=method.Samples.uses_regions)
    cfg = cfg.clone()
    cfg.defrost()
    # The sheet shows finished colours; the views are the same up to rounding.
    cfg.DETCON.AUG.MODE, cfg.DETCON.AUG.WHERE = "exact", "worker"
    samples = method.Samples.from_config(cfg, feature_stride(cfg))
    mapper = PretrainingMapper.from_config(cfg, samples)
    sampler = PositionSampler(len(records), seed=cfg.SEED, batch_size=1)
    rows = []
    for position in range(start_position, start_position + num_images):
        record = records[sampler.index_at(position)]
        image, label_map = mapper.read(record, position)
        transforms = samples.sample_geometry(position, *image.shape[:2])
        rows.append(SheetRow(image, label_map, mapper(record, position), transforms))
    return rows


def feature_stride(cfg: "d2.CfgNode") -> int:
    """Pixels per cell of the feature DETCON.IN_FEATURE."""
    with torch.device("meta"):
        return d2.build_backbone(cfg).output_shape()[cfg.DETCON.IN_FEATURE].stride


def render_sheet(rows: list[SheetRow], title: str) -> np.ndarray:
    """The sheet: uint8 (height, width, 3) RGB, one row of panels per image.

    Captions: size of image and crops in pixels; regions in the label map and, for views, how many are left after each feature cell took its
    most frequent one, which are the ids that training samples from.

    Args:
        rows: at least one, of one method.
        title: first line of the sheet.
    """
    panels = [_panels(row) for row in rows]
    step, pitch = PANEL + _GAP, PANEL + _CAPTION + _GAP
    sheet = Image.new("RGB", (_GAP + len(panels[0]) * step, _HEADER + len(rows) * pitch), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 5), shorten(title, sheet.width - 2 * _GAP, 15), fill=_INK, font=font(15))
    for column, panel in enumerate(panels[0]):
        draw.text((_GAP + column * step, 26), panel.title, fill=panel.color, font=font(15))
    for line, row in enumerate(panels):
        top = _HEADER + line * pitch
        for column, panel in enumerate(row):
            left = _GAP + column * step
            draw.text((left, top), shorten(panel.caption, PANEL, 13), fill=_INK, font=font(13))
            inset = ((PANEL - panel.pixels.shape[1]) // 2, (PANEL - panel.pixels.shape[0]) // 2)
            sheet.paste(Image.fromarray(panel.pixels), (left + inset[0], top + _CAPTION - 6 + inset[1]))
    return np.asarray(sheet)


def write_sheet(cfg: "d2.CfgNode", output: str, num_images: int, start_position: int = 0) -> str:
    """Collect, render and write a sheet; returns one line on what was written.

    Args:
        cfg: as for training.
        output: path of a .png or .jpg.
        num_images: rows, >= 1.
        start_position: of the run, >= 0.

    Raises:
        ValueError: for numbers below these, a file name with another extension, and as in training.
    """
    if num_images < 1 or start_position < 0:
        raise ValueError(f"{num_images} images from position {start_position}; expected at least 1 image and a position >= 0.")
    path = Path(output)
    if (kind := Image.registered_extensions().get(path.suffix.lower())) is None:
        raise ValueError(f"--output is {output}; expected a file name that ends in .png or .jpg.")
    rows = collect_rows(cfg, num_images, start_position)
    regions = describe_masks(cfg) if rows[0].label_map is not None else ""
    sheet = render_sheet(rows, f"{', '.join(cfg.DATASETS.TRAIN)}   {regions}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        Image.fromarray(sheet).save(file, format=kind)
    return f"{output}: {len(rows)} images, {sheet.shape[1]} x {sheet.shape[0]} pixels"


def _panels(row: SheetRow) -> list[Panel]:
    height, width = row.image.shape[:2]
    image, label_map = _fit(row.image, row.label_map)
    scale = image.shape[1] / width, image.shape[0] / height
    boxes = [view["box"].numpy() * (scale * 2) for view in row.sample["views"]]
    panels = [Panel("image and crops", _INK, _draw_boxes(image, boxes), os.path.basename(row.sample["file_name"]))]
    if label_map is not None:
        panels.append(Panel("regions", _INK, overlay_regions(image, label_map), f"{width} x {height}, {_count(row.label_map)}"))
    for number, (view, transform) in enumerate(zip(row.sample["views"], row.transforms, strict=True), start=1):
        color = _VIEW_COLORS[(number - 1) % len(_VIEW_COLORS)]
        pixels = (view["image"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        regions = None if label_map is None else transform.apply_segmentation(row.label_map)
        pixels, labels = _fit(pixels, regions)
        caption = f"crop {transform.width} x {transform.height}{', flipped' if transform.flip else ''}"
        panels.append(Panel(f"view {number}", color, pixels, caption))
        if labels is not None:
            caption = f"{_count(regions)}, {_count_cells(view['cells'].numpy())}"
            panels.append(Panel(f"view {number} regions", color, overlay_regions(pixels, labels), caption))
    return panels


def _count_cells(cells: np.ndarray) -> str:
    return f"{len(np.setdiff1d(cells, [NO_REGION]))} in {cells.shape[0]} x {cells.shape[1]} cells"


def _fit(image: np.ndarray, label_map: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Both scaled until the longer side is PANEL, the label map by nearest neighbours."""
    found = image.shape[:2]
    height, width = (max(1, round(side * PANEL / max(found))) for side in found)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if max(found) > PANEL else cv2.INTER_NEAREST_EXACT)
    if label_map is None:
        return image, None
    return image, label_map[np.ix_(nearest_indices(found[0], height), nearest_indices(found[1], width))]


def _draw_boxes(image: np.ndarray, boxes: list[np.ndarray]) -> np.ndarray:
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for number, box in reversed(list(enumerate(boxes))):
        x0, y0, x1, y1 = box.tolist()
        color = _VIEW_COLORS[number % len(_VIEW_COLORS)]
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=color, width=3)
        # Tags of odd and even views are in opposite corners, so that they stay readable where two crops coincide.
        left, top = (x0, y0) if number % 2 == 0 else (x1 - 16, y1 - 18)
        draw.rectangle((left, top, left + 15, top + 17), fill=color)
        draw.text((left + 4, top), str(number + 1), fill=_BACKGROUND, font=font(14))
    return np.asarray(canvas)


def _count(label_map: np.ndarray) -> str:
    number = len(np.setdiff1d(label_map, [NO_REGION]))
    return f"{number} region{'' if number == 1 else 's'}"
