"""Resizing and cropping for detection behave as documented on every backend present, and alike for the same seed."""

import numpy as np
import pytest
from PIL import Image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.fixture
def transforms(backend):
    return backend.get("data.transforms")


def test_pictures_are_resized_by_pil_with_the_filter_asked_for(transforms):
    resize = transforms.ResizeTransform(40, 60, 17, 90, Image.BICUBIC)
    assert np.array_equal(resize.apply_image(PIXELS), np.asarray(Image.fromarray(PIXELS).resize((90, 17), Image.BICUBIC)))
    default = transforms.ResizeTransform(40, 60, 17, 90).apply_image(PIXELS)
    assert np.array_equal(default, np.asarray(Image.fromarray(PIXELS).resize((90, 17), Image.BILINEAR)))


def test_resizing_keeps_one_channel_and_the_type(transforms):
    resize = transforms.ResizeTransform(40, 60, 20, 30)
    assert resize.apply_image(PIXELS[..., :1]).shape == (20, 30, 1)
    for dtype in (np.float32, np.float64):
        assert resize.apply_image(PIXELS.astype(dtype)).dtype == dtype


def test_labels_are_resized_without_new_labels(transforms):
    labels = RNG.choice(np.array([0, 3, 200], dtype=np.uint8), (40, 60))
    resized = transforms.ResizeTransform(40, 60, 77, 31).apply_segmentation(labels)
    assert resized.shape == (77, 31) and set(np.unique(resized)) == {0, 3, 200}


def test_coordinates_scale_with_the_image_and_back(transforms):
    resize = transforms.ResizeTransform(40, 60, 80, 90)
    assert resize.apply_coords(np.array([[60.0, 40.0], [2.0, 3.0]])).tolist() == [[90, 80], [3, 6]]
    assert resize.apply_box(np.array([[2.0, 3.0, 4.0, 5.0]])).tolist() == [[3, 6, 6, 10]]
    assert resize.inverse().apply_coords(np.array([[90.0, 80.0]])).tolist() == [[60, 40]]


def test_a_transform_refuses_images_of_another_size(transforms):
    with pytest.raises(AssertionError):
        transforms.ResizeTransform(41, 60, 20, 30).apply_image(PIXELS)


@pytest.mark.parametrize(
    ("height", "width", "length", "longest", "expected"),
    [(40, 60, 20, 1000, (20, 30)), (60, 40, 20, 1000, (30, 20)), (40, 60, 20, 25, (17, 25)), (33, 77, 20, 1000, (20, 47))],
)
def test_the_short_side_is_scaled_unless_the_long_one_is_too_long(transforms, height, width, length, longest, expected):
    assert transforms.ResizeShortestEdge.get_output_shape(height, width, length, longest) == expected
    resized = transforms.ResizeShortestEdge(length, longest).get_transform(np.zeros((height, width, 3), np.uint8))
    assert (resized.new_h, resized.new_w) == expected


def test_lengths_are_chosen_or_drawn_from_a_range(transforms):
    def lengths(*arguments):
        augmentation = transforms.ResizeShortestEdge(*arguments)
        return {augmentation.get_transform(PIXELS).new_h for _ in range(200)}

    assert lengths((20, 25, 33), 1000, "choice") == {20, 25, 33}
    assert lengths((20, 24), 1000, "range") == {20, 21, 22, 23, 24}
    assert isinstance(transforms.ResizeShortestEdge((0,), 1000, "choice").get_transform(PIXELS), transforms.NoOpTransform)


def test_unknown_styles_and_incomplete_ranges_are_refused(transforms):
    for arguments in (((20, 30), 1000, "nonsense"), ((20, 25, 30), 1000, "range")):
        with pytest.raises(AssertionError):
            transforms.ResizeShortestEdge(*arguments)
    with pytest.raises(AssertionError):
        transforms.RandomCrop("nonsense", (1, 1))


def test_resize_gives_the_shape_asked_for(transforms):
    assert transforms.Resize((13, 17)).get_transform(PIXELS).apply_image(PIXELS).shape == (13, 17, 3)
    assert transforms.Resize(13).get_transform(PIXELS).apply_image(PIXELS).shape == (13, 13, 3)


def test_scale_jitter_keeps_the_aspect_ratio_and_fits_into_the_scaled_target(transforms):
    for _ in range(20):
        resize = transforms.ResizeScale(0.8, 1.25, 128, 128).get_transform(PIXELS)
        assert 0.8 * 128 - 1 <= resize.new_w <= 1.25 * 128 + 1
        assert abs(resize.new_w / 1.5 - resize.new_h) <= 1


def test_a_fixed_window_pads_what_is_missing(transforms):
    aug_input = transforms.AugInput(PIXELS, sem_seg=PIXELS[..., 0])
    applied = transforms.FixedSizeCrop((50, 30))(aug_input)
    assert aug_input.image.shape == (50, 30, 3)
    assert (aug_input.image[40:] == 128).all() and (aug_input.sem_seg[40:] == 255).all()
    left = applied.transforms[0].x0
    assert np.array_equal(aug_input.image[:40], PIXELS[:, left : left + 30])
    small = transforms.AugInput(PIXELS)
    transforms.FixedSizeCrop((50, 30), pad=False)(small)
    assert small.image.shape == (40, 30, 3)


def test_a_fixed_window_cuts_polygons_at_its_border(transforms):
    np.random.seed(0)
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
def test_random_windows_lie_in_the_image_and_have_the_size_asked_for(transforms, crop_type, crop_size, heights, widths):
    for _ in range(50):
        window = transforms.RandomCrop(crop_type, crop_size).get_transform(PIXELS)
        assert heights[0] <= window.h <= heights[1] and widths[0] <= window.w <= widths[1]
        assert 0 <= window.x0 <= 60 - window.w and 0 <= window.y0 <= 40 - window.h
        assert window.apply_image(PIXELS).shape == (window.h, window.w, 3)


def test_a_window_larger_than_the_image_is_refused(transforms):
    with pytest.raises(AssertionError):
        transforms.RandomCrop("relative", (1.5, 0.5)).get_transform(PIXELS)


CASES = [
    ("Resize", ((33, 44), Image.BICUBIC), {}),
    ("ResizeShortestEdge", ((20, 90), 100), {}),
    ("ResizeShortestEdge", ((40, 50, 64), 90, "choice"), {}),
    ("ResizeScale", (0.1, 2.0, 77, 128), {}),
    ("FixedSizeCrop", ((50, 60),), {}),
    ("FixedSizeCrop", ((30, 80), True, 3.0, 7), {}),
    ("FixedSizeCrop", ((80, 30), False), {}),
    ("RandomCrop", ("relative", (0.3, 0.55)), {}),
    ("RandomCrop", ("relative_range", (0.3, 0.6)), {}),
    ("RandomCrop", ("absolute", (30, 55)), {}),
    ("RandomCrop", ("absolute_range", (25, 55)), {}),
    ("RandomFlip", (0.4,), {"horizontal": False, "vertical": True}),
]


def augmented(backend, name: str, arguments: tuple, options: dict, seed: int) -> list[np.ndarray]:
    """Image, box, labels, polygons and the next random number after one augmentation of a random picture."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 120, 2)
    # Three channels, none and one in turn, and now and then a floating point picture.
    image = rng.integers(0, 256, [(height, width, 3), (height, width), (height, width, 1)][seed % 3])
    transforms = backend.get("data.transforms")
    aug_input = transforms.AugInput(
        image.astype(np.float32 if seed % 5 == 4 else np.uint8),
        boxes=np.array([[1.5, 2, 30, 19]]),
        sem_seg=rng.integers(0, 9, (height, width)).astype(np.uint8),
    )
    np.random.seed(seed)
    applied = getattr(transforms, name)(*arguments, **options)(aug_input)
    polygons = applied.apply_polygons([np.array([[1.0, 2], [60, 5], [20, 60]]), np.array([[3.0, 3], [5, 3], [5, 6]])])
    return [aug_input.image, aug_input.boxes, aug_input.sem_seg, np.array(np.random.rand()), *polygons]


@pytest.mark.parametrize(("name", "arguments", "options"), CASES)
def test_both_backends_augment_alike_for_the_same_seed(subset, real, name, arguments, options):
    for seed in range(30):
        for ours, theirs in zip(*(augmented(one, name, arguments, options, seed) for one in (subset, real)), strict=True):
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


@pytest.mark.parametrize(("name", "arguments", "options"), CASES)
def test_both_backends_describe_augmentations_alike(subset, real, name, arguments, options):
    ours, theirs = (one.get("data.transforms") for one in (subset, real))
    assert repr(getattr(ours, name)(*arguments, **options)) == repr(getattr(theirs, name)(*arguments, **options))
    lists = [one.AugmentationList([one.RandomFlip(), one.Resize(3)]) for one in (ours, theirs)]
    assert repr(lists[0]) == repr(lists[1])


def test_flips_shapes_and_crops_know_their_inverse(transforms):
    window = transforms.CropTransform(2, 3, 10, 11, 60, 40)
    assert window.inverse().apply_image(window.apply_image(PIXELS)).shape == PIXELS.shape
    assert np.array_equal(transforms.HFlipTransform(60).inverse().apply_image(PIXELS[:, ::-1]), PIXELS)
