"""Segmentations of any origin are read as meant or refused; nothing unchecked reaches pycocotools."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from detcon_d2.io.segmentations import box_polygon, encode_mask, encode_segmentation, extent, read_segmentation, rle_runs

H, W = 40, 48
BOX = [3.5, 4.0, 20.25, 4.0, 20.25, 17.0, 3.5, 17.0]
PAIRS = [list(pair) for pair in zip(BOX[::2], BOX[1::2])]
MASK = np.zeros((H, W), bool)
MASK[4:17, 3:20] = True


def pixels(segmentation: object, height: int = H, width: int = W) -> np.ndarray:
    return coco_mask.decode(encode_segmentation(read_segmentation(segmentation, height, width), height, width)).astype(bool)


def uncompressed(mask: np.ndarray) -> dict:
    flat = np.concatenate([[False], mask.ravel(order="F")])
    return {"size": list(mask.shape), "counts": np.diff(np.flatnonzero(np.diff(flat)), prepend=0, append=mask.size).tolist()}


@pytest.mark.parametrize("form", [BOX, tuple(BOX), PAIRS, [PAIRS], [BOX], [[str(value) for value in BOX]], [BOX, [1, 1, 2, 2]]])
def test_every_way_to_write_a_polygon_is_the_same_mask(form):
    assert read_segmentation(form, H, W) == [BOX]


def test_valid_polygons_keep_their_numbers_and_types():
    polygons = [[-W, 0, 2 * W, 3, 7, 2 * H], BOX]
    found = read_segmentation(polygons, H, W)
    assert all(one is other for one, other in zip(found, polygons))


@pytest.mark.parametrize("form", [[], [[]], [[1, 2, 3, 4]], [1, 2], [[1, 2], [3, 4]]])
def test_fewer_than_three_points_are_no_polygon(form):
    assert read_segmentation(form, H, W) == []
    assert not pixels(form).any()


@pytest.mark.parametrize(
    "form",
    [
        None,
        "[[1,2,3,4,5,6]]",
        7,
        [{"x": 1, "y": 2}],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, "four", 5, 6]],
        [[1, 2, None, 4, 5, 6]],
        [[math.nan] * 8],
        [[0, 0, math.inf, 3, 4, 5]],
        [[0, 0, math.inf, -math.inf, 4, 5]],
        [[0, 0, "nan", 3, 4, 5]],
        [[0, 0, 1e16, 3, 4, 5]],
        [[0, 0, 10**400, 3, 4, 5]],
        [[1e308, 1e308, 1e308, 3, 4, 5]],
        [[[1, 2], [3, 4, 5], [6, 7]]],
        [[[1, 2], 3]],
        [BOX, "text"],
        [[[[1]]]],
    ],
)
def test_what_is_no_polygon_is_refused(form):
    with pytest.raises(ValueError, match="found"):
        read_segmentation(form, H, W)


@given(st.lists(st.tuples(st.integers(-3 * W, 4 * W), st.integers(-3 * H, 4 * H)), min_size=3, max_size=7))
def test_far_polygons_are_the_same_inside_the_image(points):
    """Against the definition on a canvas that holds the whole polygon; the rasteriser may place pixels of a cut edge differently."""
    flat = [float(number) for point in points for number in point]
    left, top = 3 * W, 3 * H
    canvas = (8 * H, 8 * W)
    moved = [value + (left, top)[index % 2] for index, value in enumerate(flat)]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([moved], *canvas)))[top : top + H, left : left + W].astype(bool)
    found = pixels([flat])
    border = np.zeros_like(expected)
    for axis in (0, 1):
        for shift in (-1, 1):
            border |= np.roll(expected, shift, axis) != expected
    assert not (found != expected)[~border].any()


@pytest.mark.parametrize("scale", [3.0, 1e3, 1e7, 1e12])
def test_far_corners_are_clipped_exactly(scale):
    corners = [-scale * W, -scale * H, scale * W, -scale * H, scale * W, H / 2, -scale * W, H / 2]
    (polygon,) = read_segmentation([corners], H, W)
    assert extent([polygon]) == [0, 0, W, H / 2]
    assert pixels([corners]).sum() == W * H // 2
    assert read_segmentation([[scale * W + value for value in BOX]], H, W) == []


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 30))
def test_runs_are_those_that_were_compressed(seed, height, width):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.random()
    rle, plain = encode_mask(mask), uncompressed(mask)
    assert rle_runs(rle["counts"]).tolist() == plain["counts"]
    assert rle_runs(rle["counts"].encode()).tolist() == plain["counts"]
    assert read_segmentation(plain, height, width) == rle == read_segmentation(rle, height, width)


def test_long_runs_are_read_too():
    mask = np.zeros((3000, 2000), bool)
    mask[:, 700:1999] = True
    mask[5, 3] = True
    assert rle_runs(encode_mask(mask)["counts"]).tolist() == uncompressed(mask)["counts"]


@pytest.mark.parametrize("count", [1, 2])
def test_rles_in_a_list_are_read_and_united(count):
    other = np.roll(MASK, 15, 0)
    expected = MASK if count == 1 else MASK | other
    np.testing.assert_array_equal(pixels([encode_mask(MASK), uncompressed(other)][:count]), expected)


@pytest.mark.parametrize(
    "counts",
    [
        "",
        "1",
        "0",
        "P",
        "garbage!!",
        "abc",
        "~~~~",
        "\x00",
        "é",
        "PPPPPPPPPP1",
        b"",
        b"\xff",
        [],
        [5],
        [-5, H * W + 5],
        [1.5],
        ["5"],
        None,
        5,
        [[5]],
        [10**30],
    ],
)
def test_an_rle_that_is_not_complete_is_refused(counts):
    for form in ({"size": [H, W], "counts": counts}, [{"size": [H, W], "counts": counts}]):
        with pytest.raises(ValueError, match="found"):
            read_segmentation(form, H, W)


@pytest.mark.parametrize("seed", range(20))
def test_cut_or_changed_counts_never_give_a_mask_of_another_size(seed):
    rng = np.random.default_rng(seed)
    counts = encode_mask(rng.random((H, W)) < 0.5)["counts"]
    for _ in range(50):
        changed = list(counts[: rng.integers(1, len(counts) + 1)])
        changed[rng.integers(len(changed))] = chr(rng.integers(48, 112))
        try:
            rle = read_segmentation({"size": [H, W], "counts": "".join(changed)}, H, W)
        except ValueError:
            continue
        assert rle_runs(rle["counts"]).sum() == H * W
        assert coco_mask.decode(rle).shape == (H, W)


@pytest.mark.parametrize("size", [[W, H], [H], None, "40,48", [H, W, 3], [H, None]])
def test_an_rle_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match=r"expected the image's \[40, 48\]"):
        read_segmentation({"size": size, "counts": [H * W]}, H, W)


def test_boxes_and_extents():
    assert extent(box_polygon([2, 3, 10, 5])) == [2, 3, 10, 5] == extent(encode_mask(pixels(box_polygon([2, 3, 10, 5]))))
    assert extent([]) is None is extent(encode_mask(np.zeros((H, W), bool)))
