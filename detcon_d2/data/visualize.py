"""A sheet of what the network sees: images, regions, and both views with the regions in the same colours."""

import os
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from detcon_d2 import d2
from detcon_d2.data.datasets import load_training_records
from detcon_d2.data.label_maps import describe_masks
from detcon_d2.data.mapper import PretrainingMapper
from detcon_d2.data.sampler import PositionSampler
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.masks.overlay import font, overlay_regions, shorten
from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.resize import nearest_indices
from detcon_d2.views.samplers import RegionViews

PANEL = 256
"""Side of a panel in pixels."""
_GAP, _HEADER, _CAPTION = 8, 48, 26
_TITLES = ("image and crops", "regions", "view 1", "view 1 regions", "view 2", "view 2 regions")
_BACKGROUND, _INK = (255, 255, 255), (20, 20, 20)
_VIEW_COLORS = ((230, 30, 30), (20, 90, 255))


@dataclass(frozen=True)
class SheetRow:
    """One image of a sheet.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        label_map: uint16 (H, W).
        sample: what the loader makes of it, with float32 images.
        transforms: the crop of each view.
    """

    image: np.ndarray
    label_map: np.ndarray
    sample: dict
    transforms: list[ViewTransform]


def collect_rows(cfg: "d2.CfgNode", num_images: int, start_position: int = 0) -> list[SheetRow]:
    """What training shows at positions ``start_position`` .. + ``num_images`` - 1, exactly.

    Raises:
        ValueError: config or data that cannot work, as in training.
    """
    if cfg.DETCON.MASKS.SOURCE == "kmeans":
        raise ValueError("DETCON.MASKS.SOURCE is 'kmeans': regions that a model learns while training; expected 'files' or 'grid'.")
    records = load_training_records(cfg)
    cfg = cfg.clone()
    # The sheet shows finished colours; the views are the same up to rounding.
    cfg.DETCON.AUG.MODE, cfg.DETCON.AUG.WHERE = "exact", "worker"
    samples = RegionViews.from_config(cfg, feature_stride(cfg))
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
    """The sheet: uint8 (height, width, 3) RGB, a row for each image, six panels a row.

    Captions: size of image and crops in pixels; regions in the label map and, for views, those left after each cell of the features took
    its most frequent one: the ids that training draws from.

    Args:
        rows: at least one.
        title: first line of the sheet.
    """
    step, pitch = PANEL + _GAP, PANEL + _CAPTION + _GAP
    sheet = Image.new("RGB", (_GAP + len(_TITLES) * step, _HEADER + len(rows) * pitch), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 5), shorten(title, sheet.width - 2 * _GAP, 15), fill=_INK, font=font(15))
    for column, text in enumerate(_TITLES):
        color = _VIEW_COLORS[column // 2 - 1] if column >= 2 else _INK
        draw.text((_GAP + column * step, 26), text, fill=color, font=font(15))
    for line, row in enumerate(rows):
        top = _HEADER + line * pitch
        for column, (panel, caption) in enumerate(_panels(row)):
            left = _GAP + column * step
            draw.text((left, top), shorten(caption, PANEL, 13), fill=_INK, font=font(13))
            inset = ((PANEL - panel.shape[1]) // 2, (PANEL - panel.shape[0]) // 2)
            sheet.paste(Image.fromarray(panel), (left + inset[0], top + _CAPTION - 6 + inset[1]))
    return np.asarray(sheet)


def write_sheet(cfg: "d2.CfgNode", output: str, num_images: int, start_position: int = 0) -> str:
    """Collect, render and write a sheet; returns one line on what was written.

    Args:
        cfg: as for training.
        output: path of a .png or .jpg.
        num_images: rows, >= 1.
        start_position: of the run, >= 0.

    Raises:
        ValueError: for numbers below these, and as in training.
    """
    if num_images < 1 or start_position < 0:
        raise ValueError(f"{num_images} images from position {start_position}; expected at least 1 image and a position >= 0.")
    rows = collect_rows(cfg, num_images, start_position)
    sheet = render_sheet(rows, f"{', '.join(cfg.DATASETS.TRAIN)}   {describe_masks(cfg)}")
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    root, extension = os.path.splitext(output)
    part = f"{root}.part{extension}"
    Image.fromarray(sheet).save(part)
    os.replace(part, output)
    return f"{output}: {len(rows)} images, {sheet.shape[1]} x {sheet.shape[0]} pixels"


def _panels(row: SheetRow) -> list[tuple[np.ndarray, str]]:
    height, width = row.label_map.shape
    image, label_map = _fit(row.image, row.label_map)
    scale = image.shape[1] / width, image.shape[0] / height
    panels = [
        (
            _draw_boxes(image, [view["box"].numpy() * (scale * 2) for view in row.sample["views"]]),
            os.path.basename(row.sample["file_name"]),
        ),
        (overlay_regions(image, label_map), f"{width} x {height}, {_count(row.label_map)}"),
    ]
    for view, transform in zip(row.sample["views"], row.transforms, strict=True):
        pixels = (view["image"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        regions = transform.apply_segmentation(row.label_map)
        pixels, labels = _fit(pixels, regions)
        x0, y0, x1, y1 = view["box"].int().tolist()
        panels.append((pixels, f"crop {x1 - x0} x {y1 - y0}{', flipped' if view['flip'] else ''}"))
        panels.append((overlay_regions(pixels, labels), f"{_count(regions)}, {_count_cells(view['cells'].numpy())}"))
    return panels


def _count_cells(cells: np.ndarray) -> str:
    return f"{len(np.setdiff1d(cells, [NO_REGION]))} in {cells.shape[0]} x {cells.shape[1]} cells"


def _fit(image: np.ndarray, label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both scaled until the longer side is PANEL, the label map by nearest neighbours."""
    height, width = (max(1, round(side * PANEL / max(label_map.shape))) for side in label_map.shape)
    shrinking = max(label_map.shape) > PANEL
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_NEAREST_EXACT)
    return image, label_map[np.ix_(nearest_indices(label_map.shape[0], height), nearest_indices(label_map.shape[1], width))]


def _draw_boxes(image: np.ndarray, boxes: list[np.ndarray]) -> np.ndarray:
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    corners = [(x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)) for x0, y0, x1, y1 in (box.tolist() for box in boxes)]
    for corner, color in zip(corners, _VIEW_COLORS):
        draw.rectangle(corner, outline=color, width=3)
    # Tags last and in opposite corners: they stay readable where the crops coincide.
    tags = [corners[0][:2], (corners[1][2] - 15, corners[1][3] - 17)]
    for number, ((left, top), color) in enumerate(zip(tags, _VIEW_COLORS), start=1):
        draw.rectangle((left, top, left + 15, top + 17), fill=color)
        draw.text((left + 4, top), str(number), fill=_BACKGROUND, font=font(14))
    return np.asarray(canvas)


def _count(label_map: np.ndarray) -> str:
    number = len(np.setdiff1d(label_map, [NO_REGION]))
    return f"{number} region{'' if number == 1 else 's'}"
