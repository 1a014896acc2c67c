"""Hierarchical grouping: the most similar neighbours of a fine partition are merged repeatedly.

The partition is Felzenszwalb and Huttenlocher's. Merging the least dissimilar pair of adjacent regions repeatedly is the method of
Selective Search (Uijlings et al., IJCV 104, 2013: colour, texture, size, fill) and, with the strength of the boundary between two regions,
of gPb-owt-ucm (Arbelaez et al., TPAMI 33(5), 2011) and MCG (Pont-Tuset et al., TPAMI 39(1), 2017). The cues here are simple ones, computed
from integers, so that their sums are exact on every processor.
"""

import heapq
import math
from dataclasses import dataclass

import cv2
import numpy as np

from detcon_d2.masks.generators.base import RegionGenerator, parameter, to_label_map
from detcon_d2.masks.generators.felzenszwalb import FelzenszwalbRegions

_BOX = 4  # depth of the boxes on either side of a boundary, pixels; they are 2 * _BOX - 1 long
_ENCLOSED = 0.5  # by how much the dissimilarity is reduced if one region is within the other
_COLOR, _TEXTURE = 5.0, 4.0  # bring C and T to the range of B, which is in units of L*a*b*
_TINY = 1e-12
_LIGHTNESS = 100 / 255  # OpenCV's 8-bit L* in units of L*


@dataclass(frozen=True, kw_only=True)
class HierarchicalRegions(RegionGenerator):
    """Regions merged by colour, texture and the boundary between them, small ones first.

    The finest partition is FH with ``min_size`` and ``scale`` the same share of the image's pixels, so that one set of parameters suits
    images of 100 to 640 pixels. Its adjacent regions i and j have the dissimilarity

        (color * C + texture * T + boundary * B) * (s_i s_j / (s_i + s_j))^(5/16) * (1 - e / 2)

    C: chi^2 distance of their histograms of L*, a* and b*; T: chi^2 distance of their mean gradients of L* by direction; B: mean distance
    in L*a*b* of the boxes on either side of their common boundary; s: their share of the image's pixels; e: the length of their common
    boundary over the shorter of their perimeters. Merging stops when all neighbours differ by ``threshold`` or more, so the number of
    regions follows the image, but not before at most ``regions`` are left. With threshold 0 there are exactly ``regions``, or all of the
    finest partition if it has fewer. Several values of ``regions`` give as many label maps, each nested in those with more regions;
    threshold 0 keeps them apart. When called, it raises ValueError for more than 65,535 regions.
    """

    name = "hierarchy"
    regions: tuple[int, ...] = parameter(
        (64,), "at most so many, with threshold 0 exactly; several make nested layers of label maps", at_least=1
    )
    threshold: float = parameter(
        5.5, "neighbours that differ by so much are not merged; 0: merge down to the number of regions", at_least=0
    )
    grain: float = parameter(0.0005, "smallest region to start from, as a share of the image's area", above=0, at_most=1)
    sigma: float = parameter(0.8, "standard deviation of the smoothing, pixels", at_least=0)
    color: float = parameter(1.0, "weight of the difference in colour (C)", at_least=0)
    texture: float = parameter(1.0, "weight of the difference in texture (T)", at_least=0)
    boundary: float = parameter(1.0, "weight of the contrast along the common boundary (B)", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.regions:
            self._refuse("regions", "at least one number")
        if not 0 < self.color + self.texture + self.boundary < math.inf:
            self._refuse("color, texture, boundary", "finite weights, and one above 0")

    @property
    def layers(self) -> int:
        return len(self.regions)

    prepare = staticmethod(FelzenszwalbRegions.prepare)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        min_size = math.ceil(self.grain * image.shape[0] * image.shape[1])
        finest = FelzenszwalbRegions(scale=min_size, sigma=self.sigma, min_size=min_size)(image, rng).astype(np.int64)
        graph = region_graph(image, finest, self.color, self.texture, self.boundary)
        merges = merge_regions(graph, min(self.regions), self.threshold)
        maps = [to_label_map(cut(merges, len(graph.size), count, self.threshold)[finest]) for count in self.regions]
        return maps[0] if self.layers == 1 else np.stack(maps)

    def advice(self, height: int, width: int) -> str | None:
        """Half the threshold, or a finer partition if the threshold is 0."""
        if min(self.regions) < 8:
            return "--regions 16"
        return f"--threshold {self.threshold / 2:.2g}" if self.threshold else f"--grain {self.grain / 4:.1g}"


@dataclass
class RegionGraph:
    """Regions 0..n-1 and the common boundaries of the adjacent ones.

    Attributes:
        size: float64 (n,), shares of the image's pixels.
        features: float64 (n, F), means over the pixels, weighted: chi^2 distances add up to color * C + texture * T.
        perimeter: float64 (n,), pixel sides, those along the frame of the image included.
        edges: int64 (E, 2), i < j, sorted.
        length: float64 (E,), pixel sides between i and j.
        contrast: float64 (E,), boundary * B * length.
    """

    size: np.ndarray
    features: np.ndarray
    perimeter: np.ndarray
    edges: np.ndarray
    length: np.ndarray
    contrast: np.ndarray


def region_graph(image: np.ndarray, label_map: np.ndarray, color: float, texture: float, boundary: float) -> RegionGraph:
    """The quantities that merging needs of an image uint8 (H, W, 3) RGB and its regions int64 (H, W), every id of 0..n-1. The weights and
    cues are those of :class:`HierarchicalRegions`."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    ids, count = label_map.ravel(), int(label_map.max()) + 1
    size = np.bincount(ids)
    features = np.concatenate([color * _color_sums(lab, ids, count), texture * _texture_sums(lab, ids, count)], axis=1)
    edges, length, contrast = _boundaries(lab, label_map, count)
    frame = np.concatenate([label_map[0], label_map[-1], label_map[:, 0], label_map[:, -1]])
    perimeter = np.bincount(edges.ravel(), np.repeat(length, 2), count) + np.bincount(frame, minlength=count)
    return RegionGraph(size / len(ids), features / size[:, None], perimeter, edges, length, boundary * contrast)


def _color_sums(lab: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """Three histograms of 16 bins, (n, 48); those of a* and b* cover -64..63, the outer bins also what is beyond."""
    bins = [lab[..., 0] >> 4] + [(np.clip(lab[..., channel], 64, 191) - 64) >> 3 for channel in (1, 2)]
    histograms = [np.bincount(ids * 16 + bin_.ravel(), minlength=count * 16).reshape(count, 16) for bin_ in bins]
    return np.concatenate(histograms, axis=1) * _COLOR


def _texture_sums(lab: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """Histograms of the direction of the smoothed gradient of L*, modulo 180 degrees, weighted by its length, (n, 8).

    Lengths are changes over 1 / 400 of the image's size, the root of its area: a pixel where it has 400x400.
    """
    x, y = (cv2.Sobel(lab[..., 0], cv2.CV_16S, dx, 1 - dx, ksize=5) for dx in (1, 0))
    turned = np.where(y < 0, -x, x)
    angles = np.arange(1, 8) * math.pi / 8
    # The bin is the number of angles up to that of the gradient; arctan2 would differ between processors.
    bins = sum((np.abs(y) * math.cos(angle) >= turned * math.sin(angle)).view(np.int8) for angle in angles)
    length = np.sqrt(x.astype(np.int32) ** 2 + y.astype(np.int32) ** 2)
    sums = np.bincount(ids * 8 + bins.ravel(), length.ravel(), count * 8)
    # The response of the kernel to a slope of 1 is 128.
    return sums.reshape(count, 8) * (_TEXTURE * _LIGHTNESS / 128 * math.sqrt(len(ids)) / 400)


def _boundaries(lab: np.ndarray, label_map: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of adjacent regions (E, 2), the length of their boundary and the contrast summed along it (E,)."""
    keys, contrasts = [], []
    for labels, pixels in ((label_map, lab), (label_map.T, lab.transpose(1, 0, 2))):
        y, x = np.nonzero(labels[:, :-1] != labels[:, 1:])
        here, there = labels[y, x], labels[y, x + 1]
        keys.append(np.minimum(here, there) * count + np.maximum(here, there))
        # Sums over the _BOX columns that end at x; those that start at x + 1 end at x + _BOX. The last column is repeated.
        padded = cv2.copyMakeBorder(np.ascontiguousarray(pixels), 0, 0, 0, _BOX, cv2.BORDER_REPLICATE)
        sums = cv2.boxFilter(
            padded, cv2.CV_32F, (_BOX, 2 * _BOX - 1), anchor=(_BOX - 1, _BOX - 1), normalize=False, borderType=cv2.BORDER_REPLICATE
        )
        difference = (sums[y, x + _BOX] - sums[y, x]) / (_BOX * (2 * _BOX - 1)) * np.array([_LIGHTNESS, 1, 1])
        contrasts.append(np.sqrt((difference**2).sum(axis=1)))
    pairs, which, length = np.unique(np.concatenate(keys), return_inverse=True, return_counts=True)
    contrast = np.bincount(which, np.concatenate(contrasts), len(pairs))
    return np.stack([pairs // count, pairs % count], axis=1), length.astype(float), contrast


def merge_regions(graph: RegionGraph, regions: int, threshold: float = 0.0) -> list[tuple[float, int, int]]:
    """Merge the least dissimilar adjacent regions until ``regions`` are left, and further while they differ by less than ``threshold``.

    Of equally dissimilar pairs, the one with the lowest ids is merged first.

    Returns:
        (dissimilarity, i, j) of each merge in order. Merge k makes region n + k of i and j, n being the number of regions of the graph.
    """
    left, growing, merges = len(graph.size), _GrowingGraph(graph), []
    (i, j), length, contrast = graph.edges.T, graph.length, graph.contrast
    queue = list(zip(growing.dissimilarity(i, j, length, contrast).tolist(), i.tolist(), j.tolist()))
    heapq.heapify(queue)
    while queue:
        dissimilarity, i, j = edge = heapq.heappop(queue)
        if not (growing.alive[i] and growing.alive[j]):
            continue
        if left <= regions and dissimilarity >= threshold:
            break
        merges.append(edge)
        for new_edge in growing.merge(i, j):
            heapq.heappush(queue, new_edge)
        left -= 1
    return merges


def cut(merges: list[tuple[float, int, int]], count: int, regions: int, threshold: float = 0.0) -> np.ndarray:
    """The partition with ``regions`` regions, or with fewer if :func:`merge_regions` made ``merges`` below the threshold of the ``count``
    regions before: int64 (count,), the new region of each, 0, 1, 2, ... in the order of the first of each."""
    done = max(count - regions, 0)
    while done < len(merges) and merges[done][0] < threshold:
        done += 1
    root = np.arange(count + done)
    for new in range(count + done - 1, count - 1, -1):
        root[list(merges[new - count][1:])] = root[new]
    _, first, which = np.unique(root[:count], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which]


class _GrowingGraph:
    """A region graph with room for the regions that merging makes; edges are (dissimilarity, i, j), i < j."""

    def __init__(self, graph: RegionGraph) -> None:
        self.next = len(graph.size)
        self.alive = [True] * self.next
        room = self.next - 1
        self.size, self.perimeter = np.pad(graph.size, (0, room)), np.pad(graph.perimeter, (0, room))
        self.features = np.pad(graph.features, ((0, room), (0, 0)))
        # For each region: its neighbours, with length and contrast of the common boundary.
        self.around: list[dict[int, tuple[float, float]]] = [{} for _ in range(self.next)]
        for (i, j), length, contrast in zip(graph.edges.tolist(), graph.length.tolist(), graph.contrast.tolist()):
            self.around[i][j] = self.around[j][i] = (length, contrast)

    def merge(self, i: int, j: int) -> list[tuple[float, int, int]]:
        """Merge two regions into a new one; returns its edges."""
        new, self.next = self.next, self.next + 1
        size_i, size_j = self.size[i], self.size[j]
        self.size[new] = size_i + size_j
        self.features[new] = (size_i * self.features[i] + size_j * self.features[j]) / self.size[new]
        self.perimeter[new] = self.perimeter[i] + self.perimeter[j] - 2 * self.around[i][j][0]
        self.alive[i] = self.alive[j] = False
        self.alive.append(True)
        # The neighbours of both, with the sums of their boundaries.
        around = self.around[i]
        for other, (length, contrast) in self.around[j].items():
            old = around.get(other, (0.0, 0.0))
            around[other] = (old[0] + length, old[1] + contrast)
        del around[i], around[j]
        self.around.append(around)
        for other, boundary in around.items():
            self.around[other].pop(i, None)
            self.around[other].pop(j, None)
            self.around[other][new] = boundary
        if not around:
            return []
        length, contrast = np.array(list(around.values())).T
        return [(value, other, new) for value, other in zip(self.dissimilarity(list(around), new, length, contrast).tolist(), around)]

    def dissimilarity(self, i: np.ndarray | list[int], j: np.ndarray | int, length: np.ndarray, contrast: np.ndarray) -> np.ndarray:
        """See :class:`HierarchicalRegions`; (E,) for E pairs."""
        p, q = self.features[i], self.features[j]
        difference = (p - q) ** 2 / np.maximum(p + q, _TINY)
        fourth_root = np.sqrt(np.sqrt(self.size[i] * self.size[j] / (self.size[i] + self.size[j])))
        small = fourth_root * np.sqrt(np.sqrt(fourth_root))  # ** (5 / 16), by roots alone: powers differ between processors
        enclosed = length / np.minimum(self.perimeter[i], self.perimeter[j])
        return (difference.sum(axis=1) + contrast / length) * small * (1 - _ENCLOSED * enclosed)
