"""Resizing, flipping and cropping behave as documented on both backends, and alike with the same seed."""

import numpy as np
import pytest
from PIL import Image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.fixture
def transforms(backend):
    return backend.get("data.transforms")


def test_uint8_images_are_resized_by_pil_and_keep_channels_and_type(transforms):
    for filters in ((), (Image.BICUBIC,)):
        resized = transforms.ResizeTransform(40, 60, 17, 90, *filters).apply_image(PIXELS)
        assert np.array_equal(resized, np.asarray(Image.fromarray(PIXELS).resize((90, 17), *(filters or (Image.BILINEAR,)))))
    resize = transforms.ResizeTransform(40, 60, 20, 30)
    assert resize.apply_image(PIXELS[..., :1]).shape == (20, 30, 1)
    assert resize.apply_image(PIXELS.astype(np.float32)).dtype == np.float32
    with pytest.raises(AssertionError):
        resize.apply_image(PIXELS[:39])


def test_labels_are_resized_without_new_labels_and_coordinates_scale(transforms):
    labels = RNG.choice(np.array([0, 3, 200], dtype=np.uint8), (40, 60))
    resize = transforms.ResizeTransform(40, 60, 80, 90)
    assert set(np.unique(resize.apply_segmentation(labels))) == {0, 3, 200}
    assert resize.apply_coords(np.array([[60.0, 40.0], [2.0, 3.0]])).tolist() == [[90, 80], [3, 6]]


@pytest.mark.parametrize(
    ("height", "width", "length", "longest", "expected"),
    [(40, 60, 20, 1000, (20, 30)), (60, 40, 20, 1000, (30, 20)), (40, 60, 20, 25, (17, 25)), (33, 77, 20, 1000, (20, 47))],
)
def test_the_short_side_is_scaled_unless_the_long_one_is_too_long(transforms, height, width, length, longest, expected):
    resized = transforms.ResizeShortestEdge(length, longest).get_transform(np.zeros((height, width, 3), np.uint8))
    assert (resized.new_h, resized.new_w) == expected


def test_lengths_are_sampled_from_a_list_or_a_range(transforms):
    np.random.seed(0)

    def lengths(*arguments):
        augmentation = transforms.ResizeShortestEdge(*arguments)
        return {augmentation.get_transform(PIXELS).new_h for _ in range(200)}

    assert lengths((20, 25, 33), 1000, "choice") == {20, 25, 33}
    assert lengths((20, 24), 1000, "range") == {20, 21, 22, 23, 24}
    assert isinstance(transforms.ResizeShortestEdge((0,), 1000, "choice").get_transform(PIXELS), transforms.NoOpTransform)
    for arguments in (((20, 30), 1000, "nonsense"), ((20, 25, 30), 1000, "range")):
        with pytest.raises(AssertionError):
            transforms.ResizeShortestEdge(*arguments)


def test_augmentations_apply_one_after_the_other(transforms):
    aug_input = transforms.AugInput(PIXELS)
    resize, vertical = transforms.ResizeShortestEdge(20), transforms.RandomFlip(1.0, horizontal=False, vertical=True)
    applied = transforms.AugmentationList([transforms.RandomFlip(1.0), resize, vertical, transforms.RandomFlip(0.0)])(aug_input)
    assert [type(one).__name__ for one in applied.transforms] == ["HFlipTransform", "ResizeTransform", "VFlipTransform", "NoOpTransform"]
    expected = np.asarray(Image.fromarray(PIXELS[:, ::-1]).resize((30, 20), Image.BILINEAR))[::-1]
    assert np.array_equal(aug_input.image, expected) and np.array_equal(applied.apply_image(PIXELS), expected)
    for wrong in (lambda: transforms.AugInput(None), lambda: transforms.AugmentationList([3])):
        with pytest.raises(AssertionError):
            wrong()
    for both in (True, False):
        with pytest.raises(ValueError):
            transforms.RandomFlip(horizontal=both, vertical=both)


def test_scale_jitter_keeps_the_aspect_ratio_and_fits_into_the_scaled_target(transforms):
    np.random.seed(0)
    for _ in range(20):
        resize = transforms.ResizeScale(0.8, 1.25, 128, 128).get_transform(PIXELS)
        assert 0.8 * 128 - 1 <= resize.new_w <= 1.25 * 128 + 1
        assert abs(resize.new_w / 1.5 - resize.new_h) <= 1


def test_a_fixed_window_pads_what_is_missing_and_cuts_polygons(transforms):
    np.random.seed(0)
    aug_input = transforms.AugInput(PIXELS)
    applied = transforms.FixedSizeCrop((50, 30))(aug_input)
    left = applied.transforms[0].x0
    assert aug_input.image.shape == (50, 30, 3) and (aug_input.image[40:] == 128).all()
    assert np.array_equal(aug_input.image[:40], PIXELS[:, left : left + 30])
    assert (applied.apply_segmentation(PIXELS[..., 0])[40:] == 255).all()
    window = transforms.FixedSizeCrop((20, 20)).get_transform(PIXELS)
    (corner,) = window.apply_polygons([np.array([[0, 0], [60, 0], [60, 40], [0, 40.0]])])
    assert (corner.min(axis=0) == 0).all() and (corner.max(axis=0) == 20).all()
    assert window.apply_polygons([np.array([[-9, -9], [-5, -9], [-5, -5.0]])]) == []


@pytest.mark.parametrize(
    ("crop_type", "crop_size", "heights", "widths"),
    [
        ("relative", (0.5, 0.25), (20, 20), (15, 15)),
        ("relative_range", (0.5, 0.25), (20, 40), (15, 60)),
        ("absolute", (10, 90), (10, 10), (60, 60)),
        ("absolute_range", (10, 50), (10, 40), (10, 50)),
    ],
)
def test_random_windows_are_inside_the_image_and_have_the_size_of_their_type(transforms, crop_type, crop_size, heights, widths):
    np.random.seed(0)
    for _ in range(50):
        window = transforms.RandomCrop(crop_type, crop_size).get_transform(PIXELS)
        assert heights[0] <= window.h <= heights[1] and widths[0] <= window.w <= widths[1]
        assert 0 <= window.x0 <= 60 - window.w and 0 <= window.y0 <= 40 - window.h
    with pytest.raises(AssertionError):
        transforms.RandomCrop("nonsense", (1, 1))
    with pytest.raises(AssertionError):
        transforms.RandomCrop("relative", (1.5, 0.5)).get_transform(PIXELS)


CASES = [
    ("ResizeShortestEdge", ((20, 90), 100), {}),
    ("ResizeShortestEdge", ((40, 50, 64), 90, "choice"), {}),
    ("ResizeScale", (0.1, 2.0, 77, 128), {}),
    ("FixedSizeCrop", ((50, 60),), {}),
    ("RandomCrop", ("relative", (0.3, 0.55)), {}),
    ("RandomCrop", ("relative_range", (0.3, 0.6)), {}),
    ("RandomCrop", ("absolute", (30, 55)), {}),
    ("RandomCrop", ("absolute_range", (25, 55)), {}),
    ("RandomFlip", (0.4,), {"horizontal": False, "vertical": True}),
]


def augmented(backend, name: str, arguments: tuple, options: dict, seed: int) -> list[np.ndarray]:
    """Image, box, labels, polygons and the next random number after one augmentation of a random image."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 120, 2)
    # Three channels, none and one in turn, and some floating point images.
    image = rng.integers(0, 256, [(height, width, 3), (height, width), (height, width, 1)][seed % 3])
    labels = rng.integers(0, 9, (height, width)).astype(np.uint8)
    transforms = backend.get("data.transforms")
    aug_input = transforms.AugInput(image.astype(np.float32 if seed % 5 == 4 else np.uint8))
    np.random.seed(seed)
    applied = getattr(transforms, name)(*arguments, **options)(aug_input)
    polygons = applied.apply_polygons([np.array([[1.0, 2], [60, 5], [20, 60]]), np.array([[3.0, 3], [5, 3], [5, 6]])])
    boxes = applied.apply_box(np.array([[1.5, 2, 30, 19]]))
    return [aug_input.image, boxes, applied.apply_segmentation(labels), np.array(np.random.rand()), *polygons]


@pytest.mark.parametrize(("name", "arguments", "options"), CASES)
def test_both_backends_augment_alike_with_the_same_seed(subset, real, name, arguments, options):
    for seed in range(30):
        for ours, theirs in zip(*(augmented(one, name, arguments, options, seed) for one in (subset, real)), strict=True):
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    descriptions = [repr(getattr(one.get("data.transforms"), name)(*arguments, **options)) for one in (subset, real)]
    assert descriptions[0] == descriptions[1]
