"""The mapper turns records into the input of a detector as documented on both backends, and alike."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from tests.detectron2_subset.coco_dataset import assert_same_item, registered, same_seed, small_config, write_dataset
from tests.detectron2_subset.recorded import checksum, numbers_of_detectron2

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
SIZE = (20, 30)


def save(folder: Path, mode: str = "RGB", orientation: int = 1) -> str:
    # No TIFF: Pillow itself rotates those, and Detectron2 then rotates them again.
    path = folder / f"{mode.replace(';', '')}_{orientation}.{'jpg' if mode == 'CMYK' else 'png'}"
    image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return str(path)


@pytest.fixture
def utils(backend):
    return backend.get("data.detection_utils")


def test_images_are_read_in_the_channel_order_of_the_format_and_rotated(utils, tmp_path):
    path = save(tmp_path)
    assert np.array_equal(utils.read_image(path, "RGB"), PIXELS) and np.array_equal(utils.read_image(path, "BGR"), PIXELS[..., ::-1])
    assert utils.read_image(path, "L").shape == (4, 6, 1)
    assert np.array_equal(utils.read_image(save(tmp_path, orientation=6), "RGB"), np.rot90(PIXELS, -1))
    with pytest.raises(FileNotFoundError):
        utils.read_image(str(tmp_path / "absent.png"))
    with pytest.raises(ValueError):
        utils.read_image(path, "nonsense")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16"])
def test_both_backends_read_the_same_pixels(subset, real, tmp_path, mode):
    for path in (save(tmp_path, mode), save(tmp_path, mode, orientation=5)):
        for format in (None, "RGB", "BGR", "L"):
            ours, theirs = (one.get("data.detection_utils").read_image(path, format) for one in (subset, real))
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def test_image_sizes_are_checked_and_filled_in(utils):
    record = {"file_name": "a.jpg"}
    utils.check_image_size(record, PIXELS)
    assert (record["height"], record["width"]) == (4, 6)
    with pytest.raises(utils.SizeMismatchError, match=r"a\.jpg"):
        utils.check_image_size({"file_name": "a.jpg", "width": 5, "height": 4}, PIXELS)


def annotation(backend, segmentation: object = None, **changes: object) -> dict:
    one = {"bbox": [1.0, 2, 5, 6], "bbox_mode": backend.get("structures").BoxMode.XYWH_ABS, "category_id": 3, "iscrowd": 0}
    return one | ({} if segmentation is None else {"segmentation": copy.deepcopy(segmentation)}) | changes


LEFT_HALF = np.zeros(SIZE, np.uint8)
LEFT_HALF[:, :15] = 1
RUNS = coco_mask.encode(np.asfortranarray(LEFT_HALF))
POLYGON = [2.0, 2, 10, 2, 10, 8]


def test_boxes_are_clipped_and_run_lengths_follow_the_transform(utils, backend):
    transforms = backend.get("data.transforms")
    outside = utils.transform_instance_annotations(annotation(backend, bbox=[-5, 2, 500, 6]), transforms.NoOpTransform(), SIZE)
    assert outside["bbox"].tolist() == [0, 2, 30, 8] and outside["bbox_mode"] == backend.get("structures").BoxMode.XYXY_ABS
    bits = utils.transform_instance_annotations(annotation(backend, RUNS), transforms.HFlipTransform(30), SIZE)["segmentation"]
    assert np.array_equal(bits, LEFT_HALF[:, ::-1])


@pytest.mark.parametrize(("segmentation", "size", "error"), [(3, SIZE, ValueError), (RUNS, (21, 30), AssertionError)])
def test_other_segmentations_and_sizes_are_refused(utils, backend, segmentation, size, error):
    with pytest.raises(error):
        utils.transform_instance_annotations(annotation(backend, segmentation), backend.get("data.transforms").NoOpTransform(), size)


def test_bitmaps_are_of_polygons_and_of_maps_and_other_masks_are_refused(utils, backend):
    square = [0.0, 0, 15, 0, 15, 20, 0, 20]
    both = [annotation(backend, one) for one in ([square], LEFT_HALF)]
    masks = utils.annotations_to_instances(both, SIZE, mask_format="bitmask").gt_masks
    assert all(np.array_equal(mask, LEFT_HALF.astype(bool)) for mask in masks.tensor.numpy())
    empty = utils.annotations_to_instances([], SIZE)
    assert len(empty) == 0 and not empty.has("gt_masks") and empty.gt_boxes.tensor.shape == (0, 4) and empty.gt_classes.dtype == torch.int64
    for wrong, mask_format in ((RUNS, "polygon"), ([[1.0, 2, 3, 4]], "polygon"), ([POLYGON], "nonsense")):
        with pytest.raises((ValueError, AssertionError)):
            utils.annotations_to_instances([annotation(backend, wrong)], SIZE, mask_format=mask_format)


def test_empty_boxes_and_masks_are_filtered(utils, backend):
    structures = backend.get("structures")
    boxes = structures.Boxes([[0, 0, 1, 1], [2, 2, 2, 5], [3, 3, 6, 6.0]])
    three = structures.Instances(SIZE, gt_boxes=boxes, gt_classes=torch.tensor([0, 1, 2]))
    assert utils.filter_empty_instances(three).gt_classes.tolist() == [0, 2]
    three.gt_masks = structures.BitMasks(torch.tensor([1, 1, 0])[:, None, None].expand(3, 4, 4))
    assert utils.filter_empty_instances(three).gt_classes.tolist() == [0]


def mapper(backend, augmentations=(), is_train: bool = True, image_format: str = "RGB", **options: object):
    return backend.get("data").DatasetMapper(is_train=is_train, augmentations=list(augmentations), image_format=image_format, **options)


@pytest.fixture
def record(backend, tmp_path):
    """The first record of the data set, in an image of 170 x 220."""
    with registered(backend, write_dataset(tmp_path, count=2)) as records:
        return records[0]


def usable(record):
    """The annotations that are not crowds. Detectron2 cannot recompute the boxes of an image without any."""
    return [one for one in record["annotations"] if not one["iscrowd"]]


def test_training_items_have_image_and_instances_and_inference_items_the_image_only(backend, record):
    before = copy.deepcopy(record)
    item = mapper(backend, use_instance_mask=True)(record)
    assert record == before
    pixels = np.asarray(Image.open(record["file_name"]))
    assert item["image"].dtype == torch.uint8 and np.array_equal(item["image"].numpy().transpose(1, 2, 0), pixels)
    assert item.keys() == {"file_name", "height", "width", "image_id", "image", "instances"}
    assert (item["height"], item["width"]) == item["instances"].image_size == (170, 220)
    assert len(item["instances"]) == len(item["instances"].gt_masks) == len(usable(record)) > 1
    assert not mapper(backend)(record)["instances"].has("gt_masks")
    item = mapper(backend, is_train=False, image_format="BGR")(record)
    assert "instances" not in item and np.array_equal(item["image"].numpy().transpose(1, 2, 0)[..., ::-1], pixels)


def test_images_without_annotations_have_no_instances(backend, record):
    assert "instances" not in mapper(backend)({key: value for key, value in record.items() if key != "annotations"})
    assert len(mapper(backend, use_instance_mask=True)({**record, "annotations": []})["instances"]) == 0


@pytest.mark.parametrize("key", ["MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"])
def test_the_subset_names_what_it_cannot_map(subset, key):
    with pytest.raises(NotImplementedError, match="install detectron2"):
        subset.get("data").DatasetMapper(small_config(subset, key, True), True)


BITMASK = ["INPUT.MASK_FORMAT", "bitmask"]
CONFIGS = {
    "default": [],
    "flip": ["INPUT.RANDOM_FLIP", "vertical", "INPUT.MIN_SIZE_TRAIN", (30, 40), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"],
    "bitmask": [*BITMASK, "INPUT.FORMAT", "RGB"],
    "crop": ["INPUT.CROP.ENABLED", True],
    "absolute": ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", [60, 150], *BITMASK],
    "no masks": ["MODEL.MASK_ON", False, "INPUT.CROP.ENABLED", True],
}
CASES = [*CONFIGS, "jitter polygon", "jitter bitmask"]


def scale_jitter(backend, mask_format):
    transforms = backend.get("data.transforms")
    augmentations = [transforms.ResizeScale(0.8, 1.25, 96, 96), transforms.FixedSizeCrop((96, 96)), transforms.RandomFlip()]
    return mapper(backend, augmentations, use_instance_mask=True, recompute_boxes=True, instance_mask_format=mask_format)


def mapped(backend, case: str, path: Path, images: Path) -> list[dict]:
    """The items of the first images, augmented as the case says."""
    jitter, cfg = case.startswith("jitter"), small_config(backend, *CONFIGS.get(case, ()))
    mapping = scale_jitter(backend, case.split()[1]) if jitter else backend.get("data").DatasetMapper(cfg, True)
    with registered(backend, path, images) as records:
        return [mapping(record) for record in records if usable(record)][:12]


def measure(backend, case: str) -> list[list[float]]:
    """Number of instances, and checksums of image, boxes, classes and masks, for each image of the generated data set."""
    np.random.seed(5)
    with TemporaryDirectory() as folder:
        items = mapped(backend, case, write_dataset(Path(folder)), Path(folder))
    rows = []
    for item in items:
        one = item["instances"]
        masks = getattr(one.gt_masks, "tensor", None) if one.has("gt_masks") else []
        masks = np.concatenate([part for each in one.gt_masks.polygons for part in each]) if masks is None else masks
        rows.append([*item["image"].shape, len(one), *map(checksum, (item["image"], one.gt_boxes.tensor, one.gt_classes, masks))])
    return rows


@pytest.mark.parametrize("case", CASES)
def test_mapped_images_and_instances_are_those_recorded_of_detectron2(backend, case):
    for found, expected in zip(measure(backend, case), numbers_of_detectron2("data.test_mapper", case), strict=True):
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("photographs", [False, True])
def test_both_backends_map_alike_with_the_same_seed(subset, real, tmp_path, request, case, photographs):
    folder = request.getfixturevalue("shared_dir") / "data" / "coco_subset" if photographs else tmp_path
    path, images = (folder / "instances.json", folder / "images") if photographs else (write_dataset(tmp_path), tmp_path)
    pairs = same_seed(subset, real, lambda backend: mapped(backend, case, path, images))
    assert sum(assert_same_item(*pair) for pair in pairs) > 8
