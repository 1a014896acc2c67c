"""A sheet of what the network sees: images, their regions, and the views, with each region in the same colour everywhere."""

import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from detcon_d2 import d2
from detcon_d2.data import PretrainingMapper, describe_masks, load_training_records
from detcon_d2.data.loader import PositionDataset
from detcon_d2.data.sampler import PositionSampler
from detcon_d2.engine.view_figures import ViewFigures, view_warnings
from detcon_d2.masks import overlay
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.methods import pretraining_class, pretraining_names
from detcon_d2.modeling.backbone import feature_strides
from detcon_d2.modeling.metrics import constant_views, mean_distinct_regions
from detcon_d2.views.geometry import ViewTransform

PANEL = 256
"""Longer side of a picture in pixels."""
FIGURE_IMAGES = 100
"""Images of which :func:`write_sheet` takes the figures."""
_VIEW_COLORS = ((230, 30, 30), (20, 90, 255), (20, 140, 40), (200, 120, 0))
_WHITE = (255, 255, 255)


class SheetRow(NamedTuple):
    """One image uint8 (H, W, 3) RGB of a sheet, its label map uint16 (H, W), or None for a method without regions, and its sample.

    The sample is what the loader makes of it, with float32 images; the transforms are the crops of its views.
    """

    image: np.ndarray
    label_map: np.ndarray | None
    sample: dict
    transforms: list[ViewTransform]


def collect_rows(cfg: "d2.CfgNode", num_images: int, start_position: int = 0) -> Iterator[SheetRow]:
    """What training shows at positions ``start_position`` .. + ``num_images`` - 1, exactly; the config is checked at once.

    Raises ValueError: config or data that cannot work, as in training, and for an image that cannot be read, unless
    DETCON.ON_BAD_IMAGE is "skip": then the image that training puts in its place is shown.
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
    samples = method.Samples.from_config(cfg, feature_strides(cfg)[cfg.DETCON.IN_FEATURE])
    mapper = PretrainingMapper.from_config(cfg, samples)
    sampler = PositionSampler(len(records), seed=cfg.SEED, batch_size=1)

    def row(record: dict, position: int) -> SheetRow:
        image, label_map = mapper.read(record, position)
        return SheetRow(image, label_map, mapper(record, position), samples.sample_geometry(position, *image.shape[:2]))

    rows = PositionDataset(records, row, seed=cfg.SEED, on_bad_image=cfg.DETCON.ON_BAD_IMAGE, samples=samples)
    return (rows[position, sampler.index_at(position)] for position in range(start_position, start_position + num_images))


def measure_views(rows: Iterable[SheetRow]) -> ViewFigures:
    """The figures of the views of at least one row."""
    constant, crops, regions, kept = [], [], [], []
    for row in rows:
        for view, transform in zip(row.sample["views"], row.transforms, strict=True):
            constant.append(constant_views(view["image"][None], 255.0))
            crops.append(constant_views(torch.from_numpy(transform.apply_image(row.image)).permute(2, 0, 1)[None], 255.0))
            if "regions" in view:
                regions.append(view["regions"].float())
                kept.append(mean_distinct_regions(view["cells"][None]))
    return ViewFigures(*(float(torch.stack(values).mean()) if values else None for values in (constant, crops, regions, kept)))


def render_sheet(rows: list[SheetRow], title: str) -> np.ndarray:
    """The sheet of at least one row, all of one method: uint8 (height, width, 3) RGB, with the title above the columns.

    Captions: size of image and crops in pixels; regions in the label map and, for views, how many are left after each feature cell took its
    most frequent one, which are the ids that training samples from.
    """
    pictures = [_pictures(row) for row in rows]
    headings = [heading for heading, *_ in pictures[0]]
    return overlay.draw_sheet(title, headings, [[(pixels, caption) for _, pixels, caption in row] for row in pictures], PANEL)


def write_sheet(cfg: "d2.CfgNode", output: str, num_images: int, start_position: int = 0) -> list[str]:
    """Collect, render and write a sheet as a .png or .jpg; returns lines on what was written, the figures of the views of
    :data:`FIGURE_IMAGES` images, and warnings.

    Raises ValueError: no row, a negative position, a file name with another extension, and as in training.
    """
    if num_images < 1 or start_position < 0:
        raise ValueError(f"{num_images} images from position {start_position}; expected at least 1 image and a position >= 0.")
    overlay.picture_format(output)  # before the work
    found = collect_rows(cfg, max(num_images, FIGURE_IMAGES), start_position)
    rows = list(islice(found, num_images))
    figures = measure_views(islice(chain(rows, found), FIGURE_IMAGES))
    regions = describe_masks(cfg) if rows[0].label_map is not None else ""
    sheet = render_sheet(rows, f"{figures.line()}   {', '.join(cfg.DATASETS.TRAIN)}   {regions}")
    overlay.write_sheet(sheet, output)
    written = f"{output}: {len(rows)} images, {sheet.shape[1]} x {sheet.shape[0]} pixels"
    return [written, f"{FIGURE_IMAGES} images: {figures.line()}", *(f"WARNING: {line}" for line in view_warnings(figures, cfg))]


def _pictures(row: SheetRow) -> list[tuple[str, np.ndarray, str]]:
    """(heading of the column, uint8 (h, w, 3), caption) of each picture."""
    height, width = row.image.shape[:2]
    image = overlay.fit(row.image, PANEL)
    scale = image.shape[1] / width, image.shape[0] / height
    boxes = [view["box"].numpy() * (scale * 2) for view in row.sample["views"]]
    pictures = [("image and crops", _draw_boxes(image, boxes), os.path.basename(row.sample["file_name"]))]
    if row.label_map is not None:
        caption = f"{width} x {height}, {overlay.count_regions(row.label_map)}"
        pictures.append(("regions", overlay.overlay_regions(image, overlay.fit(row.label_map, PANEL)), caption))
    for number, (view, transform) in enumerate(zip(row.sample["views"], row.transforms, strict=True), start=1):
        pixels = overlay.fit((view["image"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), PANEL)
        caption = f"crop {transform.width} x {transform.height}{', flipped' if transform.flip else ''}"
        pictures.append((f"view {number}", pixels, caption))
        if row.label_map is not None:
            regions, cells = transform.apply_segmentation(row.label_map), view["cells"].numpy()
            left = f"{len(np.setdiff1d(cells, [NO_REGION]))} in {cells.shape[0]} x {cells.shape[1]} cells"
            drawn = overlay.overlay_regions(pixels, overlay.fit(regions, PANEL))
            pictures.append((f"view {number} regions", drawn, f"{overlay.count_regions(regions)}, {left}"))
    return pictures


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
        draw.text((left + 4, top), str(number + 1), fill=_WHITE, font=overlay.font(14))
    return np.asarray(canvas)
