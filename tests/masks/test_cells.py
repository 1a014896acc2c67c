"""Cells against brute force and against the released code's numbers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detcon_d2.masks import NO_REGION, label_map_to_cells
from detcon_d2.masks.cells import sampled_label_map_to_cells


def brute_force(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Counts pixel by pixel."""
    (height, width), (rows, columns) = label_map.shape, size
    counts = [[{} for _ in range(columns)] for _ in range(rows)]
    for y in range(height):
        for x in range(width):
            cell = counts[y * rows // height][x * columns // width]
            cell[int(label_map[y, x])] = cell.get(int(label_map[y, x]), 0) + 1
    return np.array([[min(cell, key=lambda i: (-cell[i], i)) for cell in row] for row in counts])


@st.composite
def maps_and_sizes(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int]]:
    shape = draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    ids = draw(st.sampled_from(([0, 1], [3, 300], [7, 8, 9, NO_REGION], [NO_REGION], list(range(65436, 65536)))))
    dtype = draw(st.sampled_from((np.uint16, np.int32, np.int64, np.uint64)))
    label_map = draw(hnp.arrays(dtype, shape, elements=st.sampled_from(ids)))
    return label_map, (draw(st.integers(1, shape[0])), draw(st.integers(1, shape[1])))


@given(maps_and_sizes())
def test_cells_equal_brute_force_for_any_ids_and_sizes(case):
    label_map, size = case
    cells = label_map_to_cells(label_map, size)
    assert cells.dtype == np.int32
    np.testing.assert_array_equal(cells, brute_force(label_map, size))


@pytest.mark.parametrize("num_ids", [2, 1000, 65536])
def test_few_and_many_ids_at_full_size_equal_brute_force(num_ids):
    label_map = np.random.default_rng(num_ids).integers(0, num_ids, (100, 150)).astype(np.uint16)
    np.testing.assert_array_equal(label_map_to_cells(label_map, (7, 7)), brute_force(label_map, (7, 7)))


@given(maps_and_sizes(), st.integers(0, 1000))
def test_cells_of_a_sampled_map_are_those_of_the_map_it_samples(case, seed):
    label_map, size = case
    rng = np.random.default_rng(seed)
    rows, columns = (rng.integers(0, side, max(cells, rng.integers(1, 20))) for side, cells in zip(label_map.shape, size))
    picked = label_map[np.ix_(rows, columns)]
    sampled, regions = sampled_label_map_to_cells(label_map, rows, columns, size)
    assert sampled.dtype == np.int32 and regions == len(set(picked.ravel().tolist()) - {NO_REGION})
    np.testing.assert_array_equal(sampled, brute_force(picked, size))


def check_against(path: Path) -> None:
    oracle = np.load(path)
    for group, size in (("a", (7, 7)), ("b", (3, 5))):
        for label_map, expected in zip(oracle[f"{group}/label_maps"], oracle[f"{group}/argmax_id"]):
            np.testing.assert_array_equal(label_map_to_cells(label_map.squeeze(), size), expected)
    for cells, exists in zip(oracle["a/argmax_id"], oracle["a/mask_exists"]):
        np.testing.assert_array_equal(np.unique(cells), np.flatnonzero(exists))


def test_cells_and_existing_ids_equal_the_released_code(fixtures_dir):
    check_against(fixtures_dir / "mask_oracle_small.npz")


def test_cells_and_existing_ids_equal_the_released_code_on_all_cases(shared_dir):
    check_against(shared_dir / "oracles" / "mask_oracle.npz")


@pytest.mark.parametrize(
    ("label_map", "size", "message"),
    [
        (np.zeros((4, 4), np.uint16), (5, 4), "at least one pixel per cell"),
        (np.zeros((4, 4), np.uint16), (0, 4), "at least one pixel per cell"),
        (np.zeros((0, 4), np.uint16), (1, 1), "at least one pixel per cell"),
        (np.full((4, 4), 65536), (2, 2), r"expected 0\.\.65535"),
        (np.full((4, 4), -1), (2, 2), r"expected 0\.\.65535"),
        (np.zeros((4, 4)), (2, 2), "expected integers"),
        (np.zeros((4, 4, 1), int), (2, 2), "expected integers"),
    ],
)
def test_unusable_label_maps_are_refused(label_map, size, message):
    with pytest.raises(ValueError, match=message):
        label_map_to_cells(label_map, size)
    with pytest.raises(ValueError, match=message):
        sampled_label_map_to_cells(label_map, *(np.arange(side) for side in label_map.shape[:2]), size)
