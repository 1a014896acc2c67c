"""Crop, flip and resize move image, label map and coordinates alike; shown with coordinates painted into the pixels."""

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from detcon_d2.masks import label_map_to_cells
from detcon_d2.views.geometry import ViewAugmentation, ViewTransform

NAMES = ("bicubic_tf", "bicubic_torch", "bicubic_pil")


def augmentation(**changes) -> ViewAugmentation:
    values = {"size": 64, "crop_area": (0.08, 1.0), "crop_aspect": (3 / 4, 4 / 3), "flip_prob": 0.5, "interpolation": "bicubic_tf"}
    return ViewAugmentation(**(values | changes))


def painted(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose channels 0 and 1 are the x and y of pixel centres as fractions, and a label map that numbers the pixels."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.float32), np.arange(height * width).reshape(height, width)


def to_view(view: ViewTransform, coords: np.ndarray) -> np.ndarray:
    """Image coordinates (N, 2) x, y to view coordinates, from crop, size and flip; the centre of pixel i is i + 0.5."""
    coords = (coords - (view.x0, view.y0)) * (view.size / view.width, view.size / view.height)
    return coords * (-1, 1) + (view.size, 0) if view.flip else coords


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10**6), height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 70), name=st.sampled_from(NAMES)
)
def test_image_label_map_and_coordinates_stay_in_step(seed, height, width, size, name):
    view = augmentation(size=size, interpolation=name).sample_view(np.random.default_rng(seed), height, width)
    image, numbers = painted(height, width)
    seen, labels = view.apply_image(image), view.apply_segmentation(numbers)
    # Where the label map says that each view pixel came from.
    source_y, source_x = np.divmod(labels, width)
    centers = np.stack([source_x.ravel() + 0.5, source_y.ravel() + 0.5], axis=1)
    forward = to_view(view, centers)
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    # The centre of the source pixel maps to within half a source pixel of the view pixel.
    assert np.abs(forward[:, 0] - x.ravel()).max() <= 0.5 * size / view.width + 1e-9
    assert np.abs(forward[:, 1] - y.ravel()).max() <= 0.5 * size / view.height + 1e-9
    # The painted coordinates differ from the label map's by half a pixel at most, and a little more where the kernel meets the border
    # (antialiasing looks further and so bends a ramp further in there).
    blur = 0.75 * max(1.0, view.width / size, view.height / size) if name == "bicubic_pil" else 0.75
    assert np.abs(seen[..., 0] * width - (source_x + 0.5)).max() <= blur
    assert np.abs(seen[..., 1] * height - (source_y + 0.5)).max() <= blur


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(("bicubic_tf", "bicubic_torch")))
def test_inside_the_crop_painted_coordinates_are_exact(seed, name):
    height, width, size = 80, 120, 48
    view = augmentation(size=size, crop_area=(0.3, 1.0), interpolation=name).sample_view(np.random.default_rng(seed), height, width)
    image, _ = painted(height, width)
    seen = view.apply_image(image)
    seen_at = np.stack([seen[..., 0].ravel() * width, seen[..., 1].ravel() * height], axis=1)
    forward = to_view(view, seen_at).reshape(size, size, 2)
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    inside = np.s_[4:-4, 4:-4]
    # Keys' kernel with a = -0.5 reproduces straight ramps; a = -0.75 does so to a few hundredths of a source pixel.
    tolerance = 1e-3 if name == "bicubic_tf" else 0.1
    assert np.abs(forward[inside] - np.stack([x, y], axis=2)[inside]).max() < tolerance


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 700), width=st.integers(1, 700))
def test_crops_lie_inside_any_image(seed, height, width):
    view = augmentation().sample_view(np.random.default_rng(seed), height, width)
    x0, y0, x1, y1 = view.box
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height


def test_area_and_aspect_follow_their_distributions():
    rng = np.random.default_rng(0)
    views = [augmentation(crop_area=(0.2, 0.4)).sample_view(rng, 1000, 1000) for _ in range(4000)]
    areas = np.array([view.width * view.height for view in views]) / 1e6
    aspects = np.log([view.width / view.height for view in views])
    for values, low, high in ((areas, 0.2, 0.4), (aspects, np.log(3 / 4), np.log(4 / 3))):
        spread = high - low
        assert values.min() >= low - 0.01 * spread - 0.002 and values.max() <= high + 0.01 * spread + 0.002
        np.testing.assert_allclose(np.quantile(values, [0.25, 0.5, 0.75]), low + spread * np.array([0.25, 0.5, 0.75]), atol=0.04 * spread)
    assert np.mean([view.flip for view in views]) == pytest.approx(0.5, abs=0.03)
    # Positions fill the room that is left, both ends included.
    room = np.array([(view.x0 / (1000 - view.width), view.y0 / (1000 - view.height)) for view in views])
    np.testing.assert_allclose(room.mean(axis=0), 0.5, atol=0.03)
    assert room.min() < 0.01 and room.max() > 0.99


def test_sides_are_clamped_and_not_drawn_again():
    # The full area at aspect 4/3 does not fit a square: width 115 is cut to 100, height stays 87.
    view = augmentation(crop_area=(1.0, 1.0), crop_aspect=(4 / 3, 4 / 3)).sample_view(np.random.default_rng(0), 100, 100)
    assert (view.width, view.height, view.x0) == (100, 87, 0)


@pytest.mark.parametrize(("height", "width"), [(40, 120), (120, 40), (40, 47)])
def test_if_no_attempt_fits_the_crop_is_torchvisions_central_one(height, width):
    # An area that exceeds every crop of an allowed aspect.
    area, aspect = (1.0, 1.0), (3 / 4, 3 / 4 + 1e-9) if height == 40 and width == 47 else (3 / 4, 4 / 3)
    view = augmentation(crop_area=area, crop_aspect=aspect, crop_attempts=10).sample_view(np.random.default_rng(0), height, width)
    top, left, *sides = RandomResizedCrop.get_params(torch.empty(3, height, width), area, aspect)
    assert (view.y0, view.x0, view.height, view.width) == (top, left, *sides)


def test_crops_of_ten_attempts_have_torchvisions_distribution():
    # On an image of 3:4 half of the large crops do not fit at first.
    rng, area, aspect = np.random.default_rng(0), (0.3, 1.0), (3 / 4, 4 / 3)
    sample = augmentation(crop_area=area, crop_attempts=10).sample_view
    views = [sample(rng, 75, 100) for _ in range(3000)]
    found = np.array([(view.y0, view.x0, view.height, view.width) for view in views])
    torch.manual_seed(0)
    expected = np.array([RandomResizedCrop.get_params(torch.empty(3, 75, 100), area, aspect) for _ in range(3000)])
    # Four standard errors of a mean.
    np.testing.assert_array_less(abs(found.mean(0) - expected.mean(0)), 4 * np.sqrt(2 / 3000) * expected.std(0))
    np.testing.assert_allclose(found.std(0), expected.std(0), rtol=0.1)
    aspects = found[:, 3] / found[:, 2]
    assert aspects.min() > 0.72 and aspects.max() < 1.37


def test_nothing_outside_the_crop_is_seen():
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[10:30, 20:50] = 100
    for name in NAMES:
        view = ViewTransform(20, 10, 30, 20, False, 32, name)
        np.testing.assert_allclose(view.apply_image(image), 100 / 255, atol=1e-6)


def test_bytes_and_fractions_give_the_same_view_in_range():
    image = np.random.default_rng(0).integers(0, 2, (31, 45, 3), dtype=np.uint8) * 255
    view = ViewTransform(3, 2, 40, 27, True, 50)
    seen = view.apply_image(image)
    assert seen.dtype == np.float32 and seen.flags.c_contiguous
    # A cubic kernel overshoots at edges; the view is clipped.
    assert seen.min() == 0 and seen.max() == 1
    np.testing.assert_allclose(seen, view.apply_image((image / 255).astype(np.float32)), atol=1e-6)


@pytest.mark.parametrize(
    "change, key",
    [
        ({"size": 0}, "SIZE"),
        ({"crop_area": (0.0, 1.0)}, "CROP_AREA"),
        ({"crop_area": (0.5, 1.2)}, "CROP_AREA"),
        ({"crop_aspect": (2.0, 1.0)}, "CROP_ASPECT"),
        ({"flip_prob": 1.5}, "FLIP_PROB"),
        ({"crop_attempts": 0}, "CROP_ATTEMPTS"),
        ({"interpolation": "bilinear"}, "INTERPOLATION"),
    ],
)
def test_impossible_settings_are_refused_by_key(change, key):
    with pytest.raises(ValueError, match=f"DETCON.VIEWS.{key} is .*expected"):
        augmentation(**change)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 70),
    ids=st.sampled_from(([0], [0, 1, 2], [3, 300, 65535], list(range(1000)))),
)
def test_cells_are_those_of_the_label_map_of_the_view(seed, height, width, size, ids):
    rng = np.random.default_rng(seed)
    view = augmentation(size=size).sample_view(rng, height, width)
    label_map = rng.choice(ids, (height, width)).astype(np.uint16)
    cells = tuple(rng.integers(1, size + 1, 2).tolist())
    found, count = view.apply_cells(label_map, cells)
    seen = view.apply_segmentation(label_map)
    assert found.dtype == np.int32 and count == len(np.setdiff1d(seen, [65535]))
    np.testing.assert_array_equal(found, label_map_to_cells(seen, cells))


@pytest.mark.parametrize("regions", [1, 20, 1000, 65535])
def test_cells_at_full_size_are_those_of_the_label_map_of_the_view(regions):
    rng = np.random.default_rng(regions)
    label_map = rng.integers(0, regions, (375, 500)).astype(np.uint16)
    for _ in range(5):
        view = augmentation(size=224).sample_view(rng, 375, 500)
        found, count = view.apply_cells(label_map, (7, 7))
        seen = view.apply_segmentation(label_map)
        np.testing.assert_array_equal(found, label_map_to_cells(seen, (7, 7)))
        assert count == len(np.unique(seen))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flip", [False, True])
def test_the_view_in_8_bits_is_the_exact_one_rounded(name, flip):
    image = skimage.data.astronaut()
    # A larger crop, a smaller one, a corner.
    for box in ((30, 40, 400, 300), (120, 60, 140, 180), (0, 0, 9, 5), (511, 511, 1, 1)):
        view = ViewTransform(*box, flip, 224, name)
        seen = view.apply_image_uint8(image)
        assert seen.dtype == np.uint8 and seen.shape == (224, 224, 3) and seen.flags.c_contiguous
        difference = np.abs(seen - view.apply_image(image) * 255)
        # Rounding alone: at most 0.5, mean 0.25.
        assert difference.mean() < (1 if name == "bicubic_tf" else 0.35)
        assert difference.max() < {"bicubic_tf": 25, "bicubic_torch": 0.6, "bicubic_pil": 3}[name]
