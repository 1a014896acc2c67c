"""Label maps to cells of the feature grid, and drawn numbers to region ids: pure functions on NumPy arrays.

H, W: size of a label map; h, w: size of the feature grid; M: regions drawn per view.
"""

import numpy as np

NO_REGION = 65535
"""Id of pixels that belong to no region. It competes for cells like any id but is never drawn."""

# The direct histogram may hold this many counters per pixel; with more ids than that the counting sorts instead.
_COUNTERS_PER_PIXEL = 4


def label_map_to_cells(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Most frequent id of each cell, ties to the lowest id (method.md, "Masks", 2).

    Pixel (y, x) belongs to cell (y * h // H, x * w // W); for H and W that are multiples of h and w this is the released code's
    average-pooled one-hot and argmax. Memory is O(H * W) whatever the ids.

    Args:
        label_map: integer (H, W), ids in 0..65535.
        size: (h, w), at most (H, W): a cell without pixels would have no id.

    Returns:
        int32 (h, w).

    Raises:
        ValueError: another shape, or an id out of range.
    """
    _check(label_map, size)
    label_map = label_map.astype(np.int64, copy=False)
    (height, width), (rows, columns) = label_map.shape, size
    cell_y = np.arange(height) * rows // height
    cell_x = np.arange(width) * columns // width
    cells = cell_y[:, None] * columns + cell_x
    num_ids = int(label_map.max()) + 1
    if rows * columns * num_ids <= _COUNTERS_PER_PIXEL * label_map.size:
        counts = np.bincount((cells * num_ids + label_map).ravel(), minlength=rows * columns * num_ids)
        winners = counts.reshape(rows * columns, num_ids).argmax(axis=1)
    else:
        winners = _most_frequent_by_sorting(cells, label_map)
    return winners.astype(np.int32).reshape(size)


def _most_frequent_by_sorting(cells: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    """The same as the histogram's argmax, for many ids: every cell must occur; returns int64 (number of cells,)."""
    keys, counts = np.unique(cells.ravel() * (NO_REGION + 1) + label_map.ravel(), return_counts=True)
    cell_of_key = keys // (NO_REGION + 1)
    # By cell, then by falling count; the sort is stable and the keys ascend, so the lowest id leads among equals.
    order = np.lexsort((-counts, cell_of_key))
    _, first = np.unique(cell_of_key[order], return_index=True)
    return keys[order[first]] % (NO_REGION + 1)


def _check(label_map: np.ndarray, size: tuple[int, int]) -> None:
    if label_map.ndim != 2 or not np.issubdtype(label_map.dtype, np.integer):
        raise ValueError(f"label map: found {label_map.dtype} {label_map.shape}; expected integers (H, W)")
    if min(size) < 1 or size[0] > label_map.shape[0] or size[1] > label_map.shape[1]:
        raise ValueError(
            f"a label map of {label_map.shape[0]}x{label_map.shape[1]} pixels cannot fill {size[0]}x{size[1]} cells; "
            "expected at least one pixel a cell: make the views larger"
        )
    low, high = int(label_map.min()), int(label_map.max())
    if low < 0 or high > NO_REGION:
        raise ValueError(f"label map: found ids {low}..{high}; expected 0..{NO_REGION}")


def ids_from_draws(cells: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Region ids for uniform numbers: the floor(u * n)-th of the n existing ids, sorted; with replacement (method.md, "Masks", 3).

    The product is taken in float64, so that float32 draws give the same ids everywhere.

    Args:
        cells: integer (h, w), ids of the cells; an id exists if it has a cell.
        draws: float (M,), uniform in [0, 1).

    Returns:
        int64 (M,); 65535 (no region) everywhere if no other id exists.
    """
    existing = np.unique(cells)
    existing = existing[existing != NO_REGION].astype(np.int64)
    if len(existing) == 0:
        return np.full(len(draws), NO_REGION, np.int64)
    return existing[np.floor(np.asarray(draws, np.float64) * len(existing)).astype(np.int64)]
