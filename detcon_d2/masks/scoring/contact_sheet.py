"""A contact sheet: images in rows, sources of regions in columns (generators and folders of label maps), the ground truth in the last."""

import logging
import os

import numpy as np

from detcon_d2.io.images import PLAIN, ImageReadError, Reading
from detcon_d2.io.tiles import label_map_of, pixels_of, read_record, whole_record
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.overlay import count_regions, draw_sheet, fit, overlay_regions, picture_format, write_sheet
from detcon_d2.masks.scoring.ground_truth import has_ground_truth, read_ground_truth
from detcon_d2.masks.scoring.scores import GroundTruth
from detcon_d2.masks.store.formats import open_store
from detcon_d2.masks.worker import regions_of

SIDE = 288
"""Longer side of a picture in pixels."""
_log = logging.getLogger(__name__)


class StoredRegions:
    """Reads the label maps in a folder, by the key of the image: uint16 (layers, H, W).

    Raises ValueError for no such folder or a damaged one; when called, for an image without a label map.

    Attributes:
        tiles: side of the tiles that larger images were cut into, pixels; 0: none.
    """

    of_whole_image = False

    def __init__(self, root: str | os.PathLike) -> None:
        self._store = open_store(root)
        self.tiles: int = self._store.index.get("tiles", 0)

    def __str__(self) -> str:
        return str(self._store.root)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict) -> np.ndarray:
        return np.stack([self._store.read(record["key"], layer) for layer in range(self._store.layers)])


Source = RegionGenerator | StoredRegions


def named_layers(title: str, source: Source, image: np.ndarray, record: dict) -> list[tuple[str, np.ndarray]]:
    """The label maps of a record, each uint16 (h, w) with its title: ``title``, or ``title [layer]`` if there are several.

    ``image``: the whole image, also for the record of a tile. Raises ValueError as :func:`regions_of`.
    """
    label_maps = regions_of(source, image, record)
    label_maps = label_maps[None] if label_maps.ndim == 2 else label_maps
    return [(title if len(label_maps) == 1 else f"{title} [{layer}]", label_map) for layer, label_map in enumerate(label_maps)]


def write_contact_sheet(
    sources: dict[str, Source], records: list[dict], output: str | os.PathLike, title: str, reading: Reading = PLAIN
) -> str:
    """Make the regions, draw and write a sheet, a .png or .jpg, with a title as its first line; returns one line on what was
    written. ``reading``: how images are read.

    Raises ValueError for no images or another extension, and as :func:`draw_rows`.
    """
    picture_format(output)  # before the work
    if not records:
        raise ValueError(f"contact sheet: found no images for {output}; expected at least one")
    headings, rows = draw_rows(sources, records, reading)
    sheet = draw_sheet(title, headings, rows, SIDE)
    write_sheet(sheet, output)
    return f"{output}: {len(rows)} images, {sheet.shape[1]} x {sheet.shape[0]} pixels"


def draw_rows(
    sources: dict[str, Source], records: list[dict], reading: Reading = PLAIN
) -> tuple[list[str], list[list[tuple[np.ndarray, str]]]]:
    """The headings, and for each image the pictures with their captions. A source with several layers has a column for each.

    If all records have ground truth (those of ``list_bsds`` and ``list_coco``), it is shown; of several people's segmentations, the one
    with the median number of segments. An image that cannot be read is named and left out, as in ``generate_masks``. Raises ValueError if
    none can be read, and for ground truth or a label map that is damaged or of another size.
    """
    with_truth, headings, rows = all(map(has_ground_truth, records)), [], []
    for number, record in enumerate(records, 1):
        try:
            whole = read_record(whole_record(record), reading)
        except ImageReadError as error:
            if number == len(records) and not rows:
                raise
            _log.warning("left out: %s", error)
            continue
        columns = [column for title, source in sources.items() for column in named_layers(title, source, whole, record)]
        if with_truth:
            columns.append(("ground truth", label_map_of(record, _typical(read_ground_truth(record, *whole.shape[:2])))))
        image = pixels_of(record, whole)
        headings, small = ["image", *(heading for heading, _ in columns)], fit(image, SIDE)
        row = [(small, f"{record['key']}, {image.shape[1]} x {image.shape[0]}")]
        row += [(overlay_regions(small, fit(regions.astype(np.uint16), SIDE)), count_regions(regions)) for _, regions in columns]
        rows.append(row)
    return headings, rows


def _typical(truths: list[GroundTruth]) -> np.ndarray:
    """The one with the (lower) median number of objects; the background is shown as no region."""
    shown = [np.where(truth.segments == truth.background, NO_REGION, truth.segments) for truth in truths]
    return sorted(shown, key=lambda segments: len(np.setdiff1d(segments, [NO_REGION])))[(len(shown) - 1) // 2]
