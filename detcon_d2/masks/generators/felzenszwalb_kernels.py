"""The compiled parts of ``felzenszwalb``, which imports this module, and with it numba, only when it is needed.

An edge is one number of 28 bits: direction, then pixel (y * width + x). From its pixel it leads to the right (0), down (1) or down-right
(2), or it connects the pixel below with the pixel on the right (3). Indices are unsigned, so numba does not test for negative ones, which
saves a third of the time of :func:`segment`. Arrays as large as the image are passed in by the caller, who can reuse them.
"""

import numpy as np
from numba import njit

_EDGE_BITS = np.uint64(28)
_PIXEL_BITS = np.uint32(26)
_EDGE_MASK = np.uint64((1 << 28) - 1)
_PIXEL_MASK = np.uint32((1 << 26) - 1)
MAX_PIXELS = 1 << 26
# Non-negative float64 sort like their bits. The sign bit and the last 27 bits of the mantissa make room for the edge.
_DROPPED_BITS = np.uint64(27)


@njit(nogil=True, cache=True)
def blur(image: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Separable filter of an image float64 (H, W, C), edges reflected (d c b a | a b c d | d c b a), in the order of operations of
    ``scipy.ndimage.correlate1d``; ``weights``: float64 (R + 1,), the centre first; ``out``: as the image, filled with the result."""
    height, width, channels = image.shape
    radius = len(weights) - 1
    line = np.empty(((width + 2 * radius), channels))
    for y in range(height):
        inside = line[radius : radius + width].ravel()
        _scale(image[y].ravel(), weights[0], inside)
        for distance in range(radius, 0, -1):
            above, below = image[_reflect(y - distance, height)], image[_reflect(y + distance, height)]
            _add_scaled(above.ravel(), below.ravel(), weights[distance], inside)
        for x in range(radius):
            line[x] = line[radius + _reflect(x - radius, width)]
            line[radius + width + x] = line[radius + _reflect(width + x, width)]
        row = out[y].ravel()
        _scale(inside, weights[0], row)
        for distance in range(radius, 0, -1):
            _add_scaled(line[radius - distance :].ravel(), line[radius + distance :].ravel(), weights[distance], row)


@njit(nogil=True, cache=True)
def _scale(values: np.ndarray, weight: float, out: np.ndarray) -> None:
    for i in range(len(out)):
        out[i] = values[i] * weight


@njit(nogil=True, cache=True)
def _add_scaled(first: np.ndarray, second: np.ndarray, weight: float, out: np.ndarray) -> None:
    for i in range(len(out)):
        out[i] += (first[i] + second[i]) * weight


@njit(nogil=True, cache=True)
def _reflect(index: int, length: int) -> int:
    index %= 2 * length
    return min(index, 2 * length - 1 - index)


@njit(nogil=True, cache=True)
def edge_costs(image: np.ndarray, out: np.ndarray) -> None:
    """Colour distances of neighbouring pixels of an image float64 (H, W, 3); ``out``: filled with the cost of each edge, float64
    (4, H, W): direction, pixel. Undefined for edges that leave the image."""
    for y in range(len(image)):
        _distances(image[y, 1:], image[y, :-1], out[0, y])
    for y in range(len(image) - 1):
        above, below = image[y], image[y + 1]
        _distances(below, above, out[1, y])
        _distances(below[1:], above[:-1], out[2, y])
        _distances(below[:-1], above[1:], out[3, y])


@njit(nogil=True, cache=True)
def _distances(first: np.ndarray, second: np.ndarray, out: np.ndarray) -> None:
    for x in range(len(first)):
        red, green, blue = first[x, 0] - second[x, 0], first[x, 1] - second[x, 1], first[x, 2] - second[x, 2]
        out[x] = np.sqrt(red * red + green * green + blue * blue)


@njit(nogil=True, cache=True)
def sort_keys(costs: np.ndarray, keys: np.ndarray) -> None:
    """A number for each edge that sorts almost as its cost (of :func:`edge_costs`): the leading 36 bits of the cost, then the edge;
    ``keys``: filled with the result, uint64 (edges,)."""
    height, width = costs.shape[1:]
    count = 0
    for direction in range(4):
        for y in range(height - (direction > 0)):
            row = costs[direction, y].view(np.uint64)
            edge = np.uint64((direction << 26) + y * width)
            for x in range(width - (direction != 1)):
                keys[count + x] = ((row[x] >> _DROPPED_BITS) << _EDGE_BITS) | (edge + np.uint64(x))
            count += width - (direction != 1)


@njit(nogil=True, cache=True)
def in_order(keys: np.ndarray, costs: np.ndarray, sorted_costs: np.ndarray, sorted_edges: np.ndarray) -> None:
    """Costs and edges in ascending order of the costs, equal costs in any order, from the sorted ``keys`` of :func:`sort_keys`;
    ``sorted_costs``, ``sorted_edges``: filled with the result, float64 and uint32 (edges,)."""
    flat, plane, count = costs.ravel(), np.uint64(costs.shape[1] * costs.shape[2]), len(keys)
    for i in range(count):
        sorted_edges[i] = keys[i] & _EDGE_MASK
    for i in range(count):
        sorted_costs[i] = flat[(sorted_edges[i] >> _PIXEL_BITS) * plane + (sorted_edges[i] & _PIXEL_MASK)]
    # Costs with the same leading bits may still be unsorted.
    stop = 1
    while stop < count:
        if sorted_costs[stop - 1] <= sorted_costs[stop]:
            stop += 1
            continue
        start = stop - 1
        while start > 0 and keys[start - 1] >> _EDGE_BITS == keys[stop] >> _EDGE_BITS:
            start -= 1
        while stop < count and keys[start] >> _EDGE_BITS == keys[stop] >> _EDGE_BITS:
            stop += 1
        order = start + np.argsort(sorted_costs[start:stop], kind="mergesort")
        sorted_costs[start:stop], sorted_edges[start:stop] = sorted_costs[order], sorted_edges[order]


@njit(nogil=True, cache=True)
def _find(parents: np.ndarray, node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@njit(nogil=True, cache=True)
def _join(parents: np.ndarray, sizes: np.ndarray, first: int, second: int) -> int:
    if sizes[first] < sizes[second]:
        first, second = second, first
    parents[second] = first
    sizes[first] += sizes[second]
    return first


@njit(nogil=True, cache=True)
def segment(costs: np.ndarray, edges: np.ndarray, height: int, width: int, scale: float, min_size: int) -> tuple[np.ndarray, bool]:
    """Merge regions along the edges, then small ones into their neighbours.

    Does the order of equal costs matter? While merging, call a region open if the cost is below its threshold; two regions join if both
    are open. A joined region is open to equal costs, because its threshold is that cost plus scale / size. So all open regions that are
    connected by equal costs become one, in any order, unless float32 rounds that threshold down to the cost. Afterwards two regions join
    if one is small. Let equal costs connect regions into a cluster: if all of it except its largest region is smaller than ``min_size``,
    then of any two parts one is small, and the whole cluster becomes one region in any order.

    Args:
        costs: float64, ascending.
        edges: uint32, see the module.
        height, width: of the image.
        scale: of thresholds, for colours from 0 to 1.
        min_size: of regions, in pixels.

    Returns:
        int64 (height, width), numbered in reading order; and whether the regions are certainly the same for any order of equal costs.
    """
    parents = np.arange(height * width).astype(np.uint32)
    sizes = np.ones(height * width, np.int32)
    ends = np.array([1, width, width + 1, width], np.uint32)
    kept, exact = _merge(costs, edges, parents, sizes, ends, scale)
    exact &= _merge_small(costs, edges, kept, parents, sizes, ends, min_size)
    return _number(parents, height, width), exact


@njit(nogil=True, cache=True)
def _roots(parents: np.ndarray, edge: int, ends: np.ndarray) -> tuple[int, int]:
    pixel, direction = edge & _PIXEL_MASK, edge >> _PIXEL_BITS
    return _find(parents, pixel + np.uint32(direction == np.uint32(3))), _find(parents, pixel + ends[direction])


@njit(nogil=True, cache=True)
def _merge(
    costs: np.ndarray, edges: np.ndarray, parents: np.ndarray, sizes: np.ndarray, ends: np.ndarray, scale: float
) -> tuple[np.ndarray, bool]:
    """Returns the indices of the edges between two regions that were not joined, and whether the order mattered, as :func:`segment`."""
    thresholds = np.full(len(parents), np.float32(scale))  # scikit-image compares in float32 as well
    kept, count, exact = np.empty(len(edges), np.uint32), 0, True
    for i in range(len(edges)):
        first, second = _roots(parents, edges[i], ends)
        if first == second:
            continue
        cost = costs[i]
        if cost < min(thresholds[first], thresholds[second]):
            root = _join(parents, sizes, first, second)
            thresholds[root] = np.float32(cost + scale / sizes[root])
            if thresholds[root] <= cost:
                exact &= not ((i > 0 and costs[i - 1] == cost) or (i + 1 < len(costs) and costs[i + 1] == cost))
        else:
            kept[count] = i
            count += 1
    return kept[:count], exact


@njit(nogil=True, cache=True)
def _merge_small(
    costs: np.ndarray, edges: np.ndarray, kept: np.ndarray, parents: np.ndarray, sizes: np.ndarray, ends: np.ndarray, min_size: int
) -> bool:
    # For every root: the last group of equal costs that enlarged it, and the largest region that became part of it in this group.
    groups, largest = np.zeros(len(parents), np.uint32), np.empty(len(parents), np.int32)
    group, exact = 0, True
    for i in range(len(kept)):
        if i == 0 or costs[kept[i]] != costs[kept[i - 1]]:
            group += 1
        first, second = _roots(parents, edges[kept[i]], ends)
        if first == second:
            continue
        if sizes[first] >= min_size and sizes[second] >= min_size:
            exact &= groups[first] != group and groups[second] != group
            continue
        one = largest[first] if groups[first] == group else sizes[first]
        two = largest[second] if groups[second] == group else sizes[second]
        root = _join(parents, sizes, first, second)
        groups[root], largest[root] = group, max(one, two)
        exact &= sizes[root] - largest[root] < min_size
    return exact


@njit(nogil=True, cache=True)
def _number(parents: np.ndarray, height: int, width: int) -> np.ndarray:
    numbers, labels = np.full(len(parents), -1, np.int64), np.empty((height, width), np.int64)
    count, pixel = 0, np.uint32(0)
    for y in range(height):
        for x in range(width):
            root = _find(parents, pixel)
            if numbers[root] < 0:
                numbers[root] = count
                count += 1
            labels[y, x] = numbers[root]
            pixel += np.uint32(1)
    return labels
