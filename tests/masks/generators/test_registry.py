"""Grids, COCO annotations, and label maps with too many regions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from detcon_d2.masks import build_generator, grid_label_map
from detcon_d2.masks.generators.base import to_label_map

RNG = np.random.default_rng(0)


def blank(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def annotate(annotations: list[dict], height: int = 10, width: int = 12) -> np.ndarray:
    return build_generator("annotations")(blank(height, width), RNG, {"annotations": annotations})


def box(x0: float, y0: float, x1: float, y1: float) -> dict:
    return {"segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}


@given(height=st.integers(1, 40), width=st.integers(1, 40), n=st.integers(1, 12))
def test_a_grid_has_equal_rectangles_in_reading_order(height, width, n):
    label_map = grid_label_map(height, width, n)
    expected = [[(y * n // height) * n + x * n // width for x in range(width)] for y in range(height)]
    assert label_map.dtype == np.uint16 and label_map.tolist() == expected


def test_the_largest_grid_does_not_wrap():
    assert np.unique(build_generator("grid", size=255)(blank(255, 260), RNG)).tolist() == list(range(255 * 255))


def test_more_regions_than_ids_are_refused():
    assert to_label_map(np.array([[0, 65534]])).tolist() == [[0, 65534]]
    with pytest.raises(ValueError, match="found 65536 regions; expected at most 65535"):
        to_label_map(np.array([[0, 65535]]))
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    for name, params in (("fh", {"scale": 1e-9, "min_size": 1}), ("fh_scales", {"scales": [1000, 1e-9], "min_sizes": [1]})):
        with pytest.raises(ValueError, match="larger regions"):
            build_generator(name, sigma=0, **params)(noise, RNG)


@pytest.mark.parametrize("compressed", [False, True, bytes])
def test_rle_and_crowds_are_instances(compressed):
    mask = np.zeros((10, 12), np.uint8)
    mask[2:9, 3:11] = 1
    if compressed:
        rle = coco_mask.encode(np.asfortranarray(mask))
        rle["counts"] = rle["counts"] if compressed is bytes else rle["counts"].decode()
    else:
        flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
        rle = {"size": [10, 12], "counts": np.diff(np.flatnonzero(np.diff(flat) != 0), prepend=0).tolist()}
    label_map = annotate([{"segmentation": rle, "iscrowd": 1}, box(4, 4, 6, 6)])
    expected = mask.astype(int)
    expected[4:6, 4:6] = 2
    np.testing.assert_array_equal(label_map, expected)


def test_no_instance_means_one_background_region():
    degenerate = {"segmentation": [[1, 1, 8, 8], [1, 1]]}
    assert not annotate([]).any() and not annotate([degenerate]).any() and not annotate([{"segmentation": []}]).any()


def test_three_hundred_instances_do_not_wrap():
    label_map = annotate([box(x, y, x + 1, y + 1) for y in range(15) for x in range(20)], 16, 20)
    assert np.unique(label_map).tolist() == list(range(301))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(1, 9), st.integers(1, 7)), max_size=6))
def test_every_pixel_belongs_to_the_smallest_instance_over_it(rectangles):
    boxes = [(x, y, min(x + w, 12), min(y + h, 10)) for x, y, w, h in rectangles]
    label_map = annotate([box(*corners) for corners in boxes])
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    for y in range(10):
        for x in range(12):
            over = [k for k, (x0, y0, x1, y1) in enumerate(boxes) if x0 <= x < x1 and y0 <= y < y1]
            expected = 1 + min(over, key=lambda k: (areas[k], -k)) if over else 0
            assert label_map[y, x] == expected


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"id": 5}, "annotation 5: found segmentation None"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "a polygon of 7 numbers"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "annotation"),
        ({"segmentation": {"size": [12, 10], "counts": [120]}}, r"RLE of size \[12, 10\]; expected the image's \[10, 12\]"),
        ({"segmentation": {"size": [10, 12], "counts": [5, 7]}}, "an RLE of 12 pixels; expected 120"),
        ({"segmentation": {"counts": [120]}}, "size"),
    ],
)
def test_malformed_segmentations_are_refused(annotation, message):
    with pytest.raises(ValueError, match=message):
        annotate([annotation])


def test_annotations_for_another_size_are_refused():
    with pytest.raises(ValueError, match=r"for 12x10 .* found an image of 10x12 .*EXIF"):
        build_generator("annotations")(blank(10, 12), RNG, {"annotations": [], "height": 12, "width": 10})


def test_records_without_annotations_are_refused():
    for record in (None, {"key": "a.jpg"}):
        with pytest.raises(ValueError, match="a record without annotations"):
            build_generator("annotations")(blank(4, 4), RNG, record)
