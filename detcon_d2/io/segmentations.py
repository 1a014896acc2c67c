"""COCO segmentations of any origin, checked: nothing that pycocotools cannot take safely is passed to it.

pycocotools trusts its input: a polygon with NaN or far coordinates ends the process or fills the memory, and a compressed RLE that ends
early gives pixels that were never written.
"""

import math

import numpy as np
from pycocotools import mask as coco_mask

from detcon_d2.io.annotated.text import excerpt

_LARGEST = 1e15
"""Largest coordinate. Above it, neighbouring numbers of float64 are a tenth of a pixel or more apart."""
_MAX_GROUP = 7
"""Characters of one number in a compressed RLE: 35 bits, more than the pixels of any image."""


def read_segmentation(segmentation: object, height: int, width: int) -> list[list[float]] | dict:
    """The valid form of a ``segmentation``.

    Polygons may be one flat list, a list of flat lists, or lists of (x, y) pairs; numbers may be text. A polygon of fewer than three points
    covers no pixel and is left out. One with a vertex more than an image size outside of the image is clipped to the image; all others
    keep their numbers. RLE may be compressed or not, and stand in a list; several are united.

    Args:
        segmentation: from a json.
        height, width: of the image, pixels.

    Returns:
        Polygons, each [x0, y0, x1, y1, ...] of at least three points (an empty list if there are none), or a complete compressed RLE
        {"size": [height, width], "counts": str}.

    Raises:
        ValueError: anything else; says what was found.
    """
    if isinstance(segmentation, dict):
        return _read_rle(segmentation, height, width)
    if not isinstance(segmentation, list | tuple):
        raise ValueError(f"found segmentation {excerpt(segmentation)}; expected polygons or an RLE")
    if segmentation and all(isinstance(part, dict) for part in segmentation):
        rles = [_read_rle(part, height, width) for part in segmentation]
        return rles[0] if len(rles) == 1 else _with_text(coco_mask.merge(rles))
    polygons = [_read_polygon(polygon) for polygon in _split(segmentation)]
    drawable = [_clip_far(polygon, height, width) for polygon in polygons if len(polygon) >= 6]
    return [polygon for polygon in drawable if len(polygon) >= 6]


def encode_segmentation(segmentation: list[list[float]] | dict, height: int, width: int) -> dict:
    """A segmentation that :func:`read_segmentation` returned as one compressed RLE, whose ``counts`` may be bytes."""
    if isinstance(segmentation, dict):
        return segmentation
    if not segmentation:
        return coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))
    return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))


def encode_mask(mask: np.ndarray) -> dict:
    """A bool (H, W) mask as a compressed RLE with text ``counts``."""
    return _with_text(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def box_polygon(box: list[float]) -> list[list[float]]:
    """The outline of an (x, y, width, height) box, as polygons of one segmentation."""
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def extent(segmentation: list[list[float]] | dict) -> list[float] | None:
    """The (x, y, width, height) box around a segmentation that :func:`read_segmentation` returned; None if it is empty."""
    if isinstance(segmentation, dict):
        box = coco_mask.toBbox(segmentation).tolist()
        return box if box[2] > 0 else None
    if not segmentation:
        return None
    x0, y0 = (min(min(polygon[axis::2]) for polygon in segmentation) for axis in (0, 1))
    x1, y1 = (max(max(polygon[axis::2]) for polygon in segmentation) for axis in (0, 1))
    return [x0, y0, x1 - x0, y1 - y0]


def rle_runs(counts: str | bytes) -> np.ndarray:
    """The run lengths of COCO's compressed counts, int64: background first, then alternating.

    Each number is written in groups of 5 bits, lowest first, one character (code + 48) a group; bit 5 says that more follow, bit 4 of the
    last is the sign. From the fourth number on, the difference to the run two places before is written (cocoapi, maskApi.h).

    Raises:
        ValueError: another character, or an unfinished number.
    """
    codes = np.frombuffer(counts.encode("utf-8") if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    if not codes.size:
        return codes
    last = (codes & 0x20) == 0
    ends = np.flatnonzero(last)
    if codes.min() < 0 or codes.max() > 63 or not last[-1]:
        raise ValueError(f"found RLE counts {excerpt(counts)} that are damaged or end early")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_GROUP:
        raise ValueError(f"found RLE counts {excerpt(counts)} with a number of {lengths.max()} characters")
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 0x1F) << shifts, starts)
    runs -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def _read_rle(segmentation: dict, height: int, width: int) -> dict:
    if not {"size", "counts"} <= segmentation.keys():
        raise ValueError(f"found segmentation {excerpt(segmentation)}; expected polygons, or an RLE with size and counts")
    size, counts = segmentation["size"], segmentation["counts"]
    try:
        same = [int(side) for side in size] == [height, width]
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(f"found an RLE of size {excerpt(size)}; expected the image's [{height}, {width}]")
    compressed = isinstance(counts, str | bytes)
    try:
        runs = rle_runs(counts) if compressed else np.array([_whole(run) for run in counts], np.int64)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"found RLE counts {excerpt(counts)}; expected whole numbers, or text") from error
    pixels = height * width
    if runs.size and (runs.min() < 0 or runs.max() > pixels):
        raise ValueError(f"found an RLE with a run of {runs.min() if runs.min() < 0 else runs.max()} pixels; expected 0 to {pixels}")
    if runs.sum() != pixels:
        raise ValueError(f"found an RLE of {runs.sum()} pixels; expected {pixels}")
    if compressed:
        return {"size": [height, width], "counts": counts if isinstance(counts, str) else counts.decode("ascii")}
    return _with_text(coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width))


def _with_text(rle: dict) -> dict:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _whole(number: object) -> int:
    if isinstance(number, str) or int(number) != number:
        raise TypeError(number)
    return int(number)


def _split(segmentation: list) -> list:
    """The polygons of a list, each a flat list of numbers or a list of pairs."""
    if not segmentation:
        return []
    if not isinstance(segmentation[0], list | tuple):
        return [segmentation]
    # A list of pairs is one polygon; a polygon of two numbers would be a point.
    if len(segmentation) >= 3 and all(isinstance(part, list | tuple) and len(part) == 2 and not _is_list(part[0]) for part in segmentation):
        return [segmentation]
    return list(segmentation)


def _read_polygon(polygon: object) -> list[float]:
    """Coordinates [x0, y0, ...], all finite; the list itself if it is valid."""
    if not isinstance(polygon, list | tuple):
        raise ValueError(f"found {excerpt(polygon)} as a polygon; expected numbers x, y, x, y, ...")
    if any(map(_is_list, polygon)):
        if not all(_is_list(point) and len(point) == 2 for point in polygon):
            raise ValueError(f"found {excerpt(polygon)} as a polygon; expected numbers or (x, y) pairs")
        polygon = [number for point in polygon for number in point]
    try:
        # The sum of numbers is finite only if all of them are. It raises a TypeError for text.
        total = math.fsum(polygon)
    except (TypeError, ValueError, OverflowError):
        polygon = [_number(number) for number in polygon]
        total = sum(polygon)
    if len(polygon) % 2:
        raise ValueError(f"found a polygon of {len(polygon)} numbers; expected x, y pairs")
    if not math.isfinite(total) or (polygon and max(max(polygon), -min(polygon)) > _LARGEST):
        raise ValueError(f"found a polygon with the coordinates {excerpt(polygon)}; expected finite numbers of pixels")
    return polygon if isinstance(polygon, list) else list(polygon)


def _number(value: object) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"found the coordinate {excerpt(value)}; expected a number") from error


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _clip_far(polygon: list[float], height: int, width: int) -> list[float]:
    """The polygon itself, or clipped to the image where a vertex is more than one image size outside of it."""
    side = min(height, width)
    if -side <= min(polygon) and max(polygon) <= 2 * side:
        return polygon
    x, y = polygon[::2], polygon[1::2]
    if -width <= min(x) and max(x) <= 2 * width and -height <= min(y) and max(y) <= 2 * height:
        return polygon
    points = list(zip(map(float, x), map(float, y)))
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        points = _clip_to_half_plane(points, axis, float(limit), sign)
    return [number for point in points for number in point]


def _clip_to_half_plane(points: list[tuple[float, float]], axis: int, limit: float, sign: int) -> list[tuple[float, float]]:
    """The part of a polygon where sign * (point[axis] - limit) >= 0 (Sutherland and Hodgman 1974, "Reentrant polygon clipping")."""
    clipped = []
    for start, end in zip([*points[-1:], *points[:-1]], points):
        inside_start, inside_end = sign * (start[axis] - limit) >= 0, sign * (end[axis] - limit) >= 0
        if inside_start != inside_end:
            part = (limit - start[axis]) / (end[axis] - start[axis])
            other = start[1 - axis] + part * (end[1 - axis] - start[1 - axis])
            clipped.append((limit, other) if axis == 0 else (other, limit))
        if inside_end:
            clipped.append(end)
    return clipped
