"""Label maps to cells of the feature grid: pure functions on NumPy arrays.

H, W: size of a label map; h, w: size of the feature grid.
"""

from functools import lru_cache

import cv2
import numpy as np

NO_REGION = 65535
"""Id of pixels that belong to no region. It competes for cells like any id but is never sampled."""

# The histogram may have this many counters per pixel; if there are more ids, the ids are sorted instead.
_COUNTERS_PER_PIXEL = 4


def label_map_to_cells(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Most frequent id of each cell, ties to the lowest id (method.md, "Masks", 2).

    Pixel (y, x) belongs to cell (y * h // H, x * w // W); for H and W that are multiples of h and w this is the released code's
    average-pooled one-hot and argmax. Memory is O(H * W) whatever the ids.

    Args:
        label_map: integer (H, W), ids in 0..65535.
        size: (h, w), at most (H, W): a cell without pixels would have no id.

    Returns:
        int32 (h, w). Raises ValueError for another shape, or an id out of range.
    """
    _check_shape(label_map, label_map.shape, size)
    return _most_frequent(label_map.take(_interleaved(label_map.shape[0], size[0]), axis=0).T, size)[0]


def sampled_label_map_to_cells(
    label_map: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, int]:
    """``label_map_to_cells(label_map[np.ix_(rows, columns)], size)``, the cells of a resized crop, in a third of the time.

    Args:
        label_map: integer (any height, any width), ids in 0..65535.
        rows, columns: integer (H,) and (W,), indices into ``label_map``.
        size: (h, w), at most (H, W).

    Returns:
        int32 (h, w), and the number of regions with a pixel in the crop, with or without a cell; 65535 does not count.
    """
    _check_shape(label_map, (len(rows), len(columns)), size)
    picked = label_map.take(rows[_interleaved(len(rows), size[0])], axis=0)
    # Copying whole rows is twice as fast as copying single pixels. OpenCV transposes fastest, but not every type.
    transposed = cv2.transpose(picked) if picked.dtype == np.uint16 else picked.T
    return _most_frequent(transposed.take(columns, axis=0), size)


def _most_frequent(view: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """The cells (h, w) of a label map that is transposed (W, H) and whose pixel rows are in the order of :func:`_interleaved`; and its
    number of regions."""
    low, high = int(view.min()) if view.dtype.kind == "i" else 0, int(view.max())
    if low < 0 or high > NO_REGION:
        raise ValueError(f"label map: found ids {low}..{high}; expected 0..{NO_REGION}")
    # Replace 65535 by the next unused id, so that it needs no counters in between. It stays the highest id.
    empty = high == NO_REGION
    if empty:
        high = int(view.max(where=view != NO_REGION, initial=0)) + 1
        view = np.minimum(view, high)
    cells, num_ids = size[0] * size[1], high + 1
    if cells * num_ids <= _COUNTERS_PER_PIXEL * view.size:
        key_type = np.uint16 if cells * num_ids <= 1 << 16 else np.int64
        keys = np.multiply(view, key_type(cells), dtype=key_type, casting="unsafe")
        keys += _cell_numbers(view.shape, size)
        # argmax returns the first of several maxima: the lowest id.
        counts = np.bincount(keys.ravel(), minlength=cells * num_ids).reshape(num_ids, cells)
        winners, regions = counts.argmax(axis=0), np.count_nonzero(counts.any(axis=1))
    else:
        winners, regions = _most_frequent_by_sorting(_cell_numbers(view.shape, size).astype(np.int64), view.astype(np.int64))
    if empty:
        winners[winners == high] = NO_REGION
        regions -= 1
    return winners.astype(np.int32).reshape(size), int(regions)


@lru_cache(maxsize=64)
def _interleaved(height: int, rows: int) -> np.ndarray:
    """int64 (height,): the first pixel row of every cell, then the second of every cell, ...

    ``bincount`` stalls when consecutive pixels increase the same counter; interleaving the rows of different cells avoids that.
    """
    cell = np.arange(height) * rows // height
    return np.argsort(np.arange(height) - np.searchsorted(cell, cell), kind="stable")


@lru_cache(maxsize=64)
def _cell_numbers(shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The cell of each pixel of the map that :func:`_most_frequent` takes: uint16, or int64 for many cells, (W, H)."""
    (width, height), (rows, columns) = shape, size
    cell_y, cell_x = np.arange(height) * rows // height, np.arange(width) * columns // width
    numbers = cell_x[:, None] + cell_y[_interleaved(height, rows)] * columns
    return numbers.astype(np.uint16 if rows * columns <= 1 << 16 else np.int64)


def _most_frequent_by_sorting(cells: np.ndarray, label_map: np.ndarray) -> tuple[np.ndarray, int]:
    """The same as the argmax of the histogram, for many ids. Every cell must have a pixel; returns int64 (number of cells,), and the
    number of ids."""
    keys, counts = np.unique(cells.ravel() * (NO_REGION + 1) + label_map.ravel(), return_counts=True)
    cell_of_key = keys // (NO_REGION + 1)
    # By cell, then by descending count. The sort is stable and the keys ascend, so the lowest of equally frequent ids is first.
    order = np.lexsort((-counts, cell_of_key))
    _, first = np.unique(cell_of_key[order], return_index=True)
    return keys[order[first]] % (NO_REGION + 1), np.count_nonzero(np.bincount(keys % (NO_REGION + 1)))


def _check_shape(label_map: np.ndarray, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    if label_map.ndim != 2 or not np.issubdtype(label_map.dtype, np.integer):
        raise ValueError(f"label map: found {label_map.dtype} {label_map.shape}; expected integers (H, W)")
    if min(size) < 1 or size[0] > shape[0] or size[1] > shape[1]:
        raise ValueError(
            f"a label map of {shape[0]}x{shape[1]} pixels cannot fill {size[0]}x{size[1]} cells; "
            "expected at least one pixel per cell: make the views larger"
        )
