"""Resizing, flipping and cropping behave as documented on both backends, and alike with the same seed."""

import numpy as np
import pytest
from PIL import Image

from tests.detectron2_subset.recorded import checksum, numbers_of_detectron2

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.fixture
def transforms(backend):
    return backend.get("data.transforms")


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


def test_impossible_augmentations_are_refused(transforms):
    assert isinstance(transforms.ResizeShortestEdge((0,), 1000, "choice").get_transform(PIXELS), transforms.NoOpTransform)
    for arguments in (((20, 30), 1000, "nonsense"), ((20, 25, 30), 1000, "range")):
        with pytest.raises(AssertionError):
            transforms.ResizeShortestEdge(*arguments)
    for both in (True, False):
        with pytest.raises(ValueError):
            transforms.RandomFlip(horizontal=both, vertical=both)
    with pytest.raises(AssertionError):
        transforms.RandomCrop("nonsense", (1, 1))
    with pytest.raises(AssertionError):
        transforms.RandomCrop("relative", (1.5, 0.5)).get_transform(PIXELS)


CASES = {
    "shortest edge": ("ResizeShortestEdge", ((20, 90), 100), {}),
    "shortest edge of a list": ("ResizeShortestEdge", ((40, 50, 64), 90, "choice"), {}),
    "scale": ("ResizeScale", (0.1, 2.0, 77, 128), {}),
    "fixed size": ("FixedSizeCrop", ((50, 60),), {}),
    "relative": ("RandomCrop", ("relative", (0.3, 0.55)), {}),
    "relative range": ("RandomCrop", ("relative_range", (0.3, 0.6)), {}),
    "absolute": ("RandomCrop", ("absolute", (30, 55)), {}),
    "absolute range": ("RandomCrop", ("absolute_range", (25, 55)), {}),
    "horizontal": ("RandomFlip", (0.6,), {}),
    "vertical": ("RandomFlip", (0.4,), {"horizontal": False, "vertical": True}),
}


def augmented(backend, case: str, seed: int) -> list[np.ndarray]:
    """Image, boxes, labels, the next random number and polygons after one augmentation of a random image."""
    rng, transforms = np.random.RandomState(seed), backend.get("data.transforms")
    height, width = rng.randint(20, 120, 2)
    # Three channels, none and one in turn, and some floating point images.
    image = rng.randint(0, 256, [(height, width, 3), (height, width), (height, width, 1)][seed % 3])
    labels = rng.randint(0, 9, (height, width)).astype(np.uint8)
    aug_input = transforms.AugInput(image.astype(np.float32 if seed % 5 == 4 else np.uint8))
    name, arguments, options = CASES[case]
    np.random.seed(seed)
    applied = getattr(transforms, name)(*arguments, **options)(aug_input)
    polygons = applied.apply_polygons([np.array([[1.0, 2], [60, 5], [20, 60]]), np.array([[3.0, 3], [5, 3], [5, 6]])])
    boxes = applied.apply_box(np.array([[1.5, 2, 30, 19]]))
    return [aug_input.image, boxes, applied.apply_segmentation(labels), np.array(np.random.rand()), *polygons]


def measure(backend, case: str) -> list[list[float]]:
    """Shape of the image and checksums of everything, for each of 12 random images."""
    found = [augmented(backend, case, seed) for seed in range(12)]
    return [[*arrays[0].shape, *map(checksum, arrays)] for arrays in found]


@pytest.mark.parametrize("case", CASES)
def test_random_augmentations_are_those_recorded_of_detectron2(backend, case):
    for found, expected in zip(measure(backend, case), numbers_of_detectron2("data.test_transforms", case), strict=True):
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_both_backends_augment_alike_with_the_same_seed(subset, real, case):
    for seed in range(30):
        for ours, theirs in zip(*(augmented(one, case, seed) for one in (subset, real)), strict=True):
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    name, arguments, options = CASES[case]
    assert len({repr(getattr(one.get("data.transforms"), name)(*arguments, **options)) for one in (subset, real)}) == 1
