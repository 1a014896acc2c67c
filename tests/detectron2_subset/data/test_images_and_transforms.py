"""Image reading, augmentations and transforms behave as documented on every backend present, and alike on both."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
MODES = ["RGB", "L", "RGBA", "P", "CMYK", "I;16"]


def save(folder: Path, mode: str = "RGB", orientation: int = 1) -> str:
    # No TIFF: Pillow itself turns those, and Detectron2 then turns them again.
    path = folder / f"{mode.replace(';', '')}_{orientation}.{'jpg' if mode == 'CMYK' else 'png'}"
    image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return str(path)


@pytest.fixture
def utils(backend):
    return backend.get("data.detection_utils")


@pytest.fixture
def transforms(backend):
    return backend.get("data.transforms")


def test_images_come_in_the_channel_order_asked_for(utils, tmp_path):
    path = save(tmp_path)
    assert np.array_equal(utils.read_image(path, "RGB"), PIXELS)
    assert np.array_equal(utils.read_image(path, "BGR"), PIXELS[..., ::-1])
    assert utils.read_image(path, "L").shape == (4, 6, 1)


def test_exif_orientation_is_applied(utils, tmp_path):
    turned = utils.read_image(save(tmp_path, orientation=6), "RGB")
    assert np.array_equal(turned, np.rot90(PIXELS, -1))


def test_reading_needs_a_file_and_a_known_format(utils, tmp_path):
    with pytest.raises(FileNotFoundError):
        utils.read_image(str(tmp_path / "absent.png"))
    with pytest.raises(ValueError):
        utils.read_image(save(tmp_path), "nonsense")


def test_image_size_is_checked_and_filled_in(utils):
    record = {"file_name": "a.jpg"}
    utils.check_image_size(record, PIXELS)
    assert (record["height"], record["width"]) == (4, 6)
    with pytest.raises(utils.SizeMismatchError, match=r"a\.jpg"):
        utils.check_image_size({"file_name": "a.jpg", "width": 5, "height": 4}, PIXELS)
    assert issubclass(utils.SizeMismatchError, ValueError)


@pytest.mark.parametrize("mode", MODES)
def test_both_backends_read_the_same_pixels(subset, real, tmp_path, mode):
    for path in (save(tmp_path, mode), save(tmp_path, mode, orientation=5)):
        for format in (None, "RGB", "BGR", "L"):
            ours, theirs = (one.get("data.detection_utils").read_image(path, format) for one in (subset, real))
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def test_augmentations_apply_in_turn_to_image_boxes_and_labels(transforms):
    aug_input = transforms.AugInput(PIXELS, boxes=np.array([[0, 0, 2, 2.0]]), sem_seg=PIXELS[..., 0])
    applied = transforms.AugmentationList([transforms.RandomFlip(1.0), transforms.CropTransform(2, 0, 4, 3)])(aug_input)
    assert [type(one).__name__ for one in applied.transforms] == ["HFlipTransform", "CropTransform"]
    assert aug_input.image.shape == (3, 4, 3) and aug_input.sem_seg.shape == (3, 4)
    assert aug_input.boxes.tolist() == [[2, 0, 4, 2]]
    assert np.array_equal(applied.apply_segmentation(PIXELS[..., 0]), aug_input.sem_seg)


def test_augmentations_get_the_inputs_they_name(transforms):
    class NeedsLabels(transforms.Augmentation):
        def get_transform(self, image, sem_seg):
            assert image.shape[:2] == sem_seg.shape
            return transforms.NoOpTransform()

    class NeedsMore(transforms.Augmentation):
        def get_transform(self, image, depth):
            return transforms.NoOpTransform()

    aug_input = transforms.AugInput(PIXELS, sem_seg=PIXELS[..., 0])
    assert isinstance(NeedsLabels()(aug_input), transforms.NoOpTransform)
    with pytest.raises(AttributeError, match="depth"):
        NeedsMore()(aug_input)


def test_augmentation_inputs_are_arrays_and_lists_hold_augmentations(transforms):
    with pytest.raises(AssertionError):
        transforms.AugInput(None)
    with pytest.raises(AssertionError):
        transforms.AugmentationList([3])


def test_flip_happens_as_often_as_asked(transforms):
    assert isinstance(transforms.RandomFlip(0.0).get_transform(PIXELS), transforms.NoOpTransform)
    flip = transforms.RandomFlip(1.0).get_transform(PIXELS)
    assert np.array_equal(flip.apply_image(PIXELS), PIXELS[:, ::-1])
    vertical = transforms.RandomFlip(1.0, horizontal=False, vertical=True).get_transform(PIXELS)
    assert np.array_equal(vertical.apply_image(PIXELS), PIXELS[::-1])
    for both in (True, False):
        with pytest.raises(ValueError):
            transforms.RandomFlip(horizontal=both, vertical=both)


def test_both_backends_flip_the_same_images_for_the_same_seed(subset, real):
    drawn = []
    for one in (subset, real):
        np.random.seed(3)
        flip = one.get("data.transforms").RandomFlip(0.3)
        drawn.append([type(flip.get_transform(PIXELS)).__name__ for _ in range(50)])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 2
