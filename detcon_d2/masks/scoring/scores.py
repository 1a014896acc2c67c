"""How well a label map agrees with ground truth: pure functions on NumPy arrays.

H, W: size of both; R: regions of the label map; G: segments of the ground truth. 65535 (``NO_REGION``) means no region in the label map
and not labelled ("void") in the ground truth: void pixels are left out of all scores, pixels without a region count as missed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from detcon_d2.masks.cells import NO_REGION


class GroundTruth(NamedTuple):
    """One segmentation by a person, or one set of instances: integer (H, W), ids in 0..65534, 65535 = not labelled.

    The segment ``background`` is no object (everything outside COCO's instances); None: all are objects.
    """

    segments: np.ndarray
    background: int | None = None


class LabelMapScores(NamedTuple):
    """Agreement of one label map with the ground truths of its image: shares in 0..1, NaN if there is nothing to agree with.

    Covering, boundary recall and achievable accuracy (asa) are means over the ground truths, ``best_overlap`` is the mean over the objects
    of all ground truths of their best intersection over union. ``objects`` and ``regions`` are the numbers of these objects and of regions.
    """

    covering: float
    boundary_recall: float
    asa: float
    best_overlap: float
    objects: int
    regions: int


class ContingencyTable(NamedTuple):
    """How many labelled pixels each region shares with each segment: int64 (R, G).

    ``segment_area`` int64 (G,) also counts the pixels in no region; ``is_object`` bool (G,) is False for the background.
    """

    pixels: np.ndarray
    segment_area: np.ndarray
    is_object: np.ndarray


def contingency_table(label_map: np.ndarray, truth: GroundTruth) -> ContingencyTable:
    """The table of a label map, integer (H, W), ids in 0..65535. Raises ValueError if the ground truth has another size."""
    if label_map.shape != truth.segments.shape:
        raise ValueError(f"found a label map of {label_map.shape} and a ground truth of {truth.segments.shape}; expected the same (H, W)")
    labelled = truth.segments != NO_REGION
    region_ids, regions = np.unique(label_map[labelled], return_inverse=True)
    segment_ids, segments = np.unique(truth.segments[labelled], return_inverse=True)
    shape = len(region_ids), len(segment_ids)
    pixels = np.bincount(regions * shape[1] + segments, minlength=shape[0] * shape[1]).reshape(shape)
    is_object = np.ones(shape[1], bool) if truth.background is None else segment_ids != truth.background
    return ContingencyTable(pixels[region_ids != NO_REGION], pixels.sum(axis=0), is_object)


def best_overlaps(table: ContingencyTable) -> np.ndarray:
    """Intersection over union of every object with the region that fits it best, float64 (objects,); 0 if there is no region.

    Its mean over the objects is the average best overlap (Uijlings et al., IJCV 104, 2013), with regions as proposals.
    """
    pixels = table.pixels[:, table.is_object]
    union = table.pixels.sum(axis=1)[:, None] + table.segment_area[table.is_object] - pixels
    return (pixels / union).max(axis=0, initial=0.0)


def covering(table: ContingencyTable) -> float:
    """Segmentation covering of the ground truth by the regions (Arbelaez et al., TPAMI 33(5), 2011).

    sum over objects g of |g| * max over regions r of IoU(g, r), divided by the sum of |g|. NaN without an object.
    """
    area = table.segment_area[table.is_object]
    return float(best_overlaps(table) @ area / area.sum()) if len(area) else float("nan")


def achievable_accuracy(table: ContingencyTable) -> float:
    """Achievable segmentation accuracy: the share of pixels that are right if every region takes its best segment.

    sum over regions r of max over segments g (background included) of |r and g|, divided by the number of labelled pixels (Liu et al.,
    CVPR 2011; Stutz et al., CVIU 166, 2018). It never falls when a region is split, so compare it together with the number of regions.
    """
    total = table.segment_area.sum()
    return float(table.pixels.max(axis=1, initial=0).sum() / total) if total else float("nan")


def boundaries(label_map: np.ndarray, void: int | None = None) -> np.ndarray:
    """Lines one pixel wide: pixels whose right or lower neighbour has another id, neither of the two being ``void``; bool (H, W)."""
    line = np.zeros(label_map.shape, bool)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        first, second = label_map[here], label_map[there]
        line[here] |= (first != second) & (first != void) & (second != void) if void is not None else first != second
    return line


def boundary_recall(label_map: np.ndarray, segments: np.ndarray) -> float:
    """The share of the ground truth's boundary pixels that have a boundary pixel of the label map nearby; NaN if there is no boundary.

    Nearby means at most 2 pixels away in x and in y (Chebyshev distance): the square window of Stutz et al. (CVIU 166, 2018),
    after Martin et al. (TPAMI 26(5), 2004). Pixels are not matched one to one, so splitting a region never lowers it. Both maps are integer
    (H, W); in the segments 65535 is not labelled, and the border of labelled pixels is no boundary.
    """
    near = cv2.dilate(boundaries(label_map).astype(np.uint8), np.ones((5, 5), np.uint8))
    line = boundaries(segments, void=NO_REGION)
    return float(near[line].mean()) if line.any() else float("nan")


def score_label_map(label_map: np.ndarray, truths: list[GroundTruth]) -> LabelMapScores:
    """All scores of a label map, integer (H, W), against one or several ground truths. Raises ValueError for another size."""
    tables = [contingency_table(label_map, truth) for truth in truths]
    overlaps = np.concatenate([best_overlaps(table) for table in tables])
    return LabelMapScores(
        covering=mean([covering(table) for table in tables]),
        boundary_recall=mean([boundary_recall(label_map, truth.segments) for truth in truths]),
        asa=mean([achievable_accuracy(table) for table in tables]),
        best_overlap=mean(overlaps),
        objects=len(overlaps),
        regions=len(np.setdiff1d(label_map, [NO_REGION])),
    )


def mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if all are."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else float("nan")
