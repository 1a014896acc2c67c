"""The mapper turns records into the input of a detector as documented on both backends, and alike."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from tests.detectron2_subset.coco_dataset import assert_same_item, registered, same_seed, small_config, write_dataset

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


def test_boxes_polygons_and_run_lengths_follow_the_transform(utils, backend):
    transforms = backend.get("data.transforms")
    applied = transforms.TransformList([transforms.HFlipTransform(30), transforms.ResizeTransform(20, 30, 40, 60)])
    one = annotation(backend, [POLYGON])
    result = utils.transform_instance_annotations(one, applied, (40, 60))
    assert result is one and result["bbox_mode"] == backend.get("structures").BoxMode.XYXY_ABS
    assert result["bbox"].tolist() == [48, 4, 58, 16]
    assert [polygon.tolist() for polygon in result["segmentation"]] == [[56, 4, 40, 4, 40, 16]]
    # Boxes are clipped to the image.
    outside = utils.transform_instance_annotations(annotation(backend, bbox=[-5, 2, 500, 6]), transforms.NoOpTransform(), SIZE)
    assert outside["bbox"].tolist() == [0, 2, 30, 8]
    bits = utils.transform_instance_annotations(annotation(backend, RUNS), transforms.HFlipTransform(30), SIZE)["segmentation"]
    assert np.array_equal(bits, LEFT_HALF[:, ::-1])


@pytest.mark.parametrize(("segmentation", "size", "error"), [(3, SIZE, ValueError), (RUNS, (21, 30), AssertionError)])
def test_other_segmentations_and_sizes_are_refused(utils, backend, segmentation, size, error):
    with pytest.raises(error):
        utils.transform_instance_annotations(annotation(backend, segmentation), backend.get("data.transforms").NoOpTransform(), size)


def test_instances_have_boxes_classes_and_masks(utils, backend):
    structures = backend.get("structures")
    polygons = [annotation(backend, [POLYGON]), annotation(backend, [POLYGON] * 2, category_id=1)]
    instances = utils.annotations_to_instances(polygons, SIZE)
    assert instances.image_size == SIZE and instances.gt_boxes.tensor.tolist() == [[1, 2, 6, 8]] * 2
    assert instances.gt_classes.tolist() == [3, 1] and instances.gt_classes.dtype == torch.int64
    assert [len(one) for one in instances.gt_masks.polygons] == [1, 2]
    square = [0.0, 0, 15, 0, 15, 20, 0, 20]
    masks = utils.annotations_to_instances(
        [annotation(backend, one) for one in ([square], LEFT_HALF)], SIZE, mask_format="bitmask"
    ).gt_masks
    assert isinstance(masks, structures.BitMasks) and all(np.array_equal(mask, LEFT_HALF.astype(bool)) for mask in masks.tensor.numpy())
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


def test_instances_follow_the_augmentation_and_the_size_is_that_of_the_file(backend, record):
    transforms = backend.get("data.transforms")
    plain = mapper(backend)(record)["instances"].gt_boxes.tensor
    item = mapper(backend, [transforms.ResizeShortestEdge(340, 440), transforms.RandomFlip(1.0)])(record)
    assert item["image"].shape == (3, 340, 440) and (item["height"], item["width"]) == (170, 220)
    x0, y0, x1, y1 = plain.T * 2
    assert torch.allclose(item["instances"].gt_boxes.tensor, torch.stack([440 - x1, y0, 440 - x0, y1], dim=1), atol=1e-3)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_after_a_crop_boxes_are_those_of_the_visible_masks(backend, record, mask_format):
    np.random.seed(0)
    crop = backend.get("data.transforms").RandomCrop("absolute", (60, 80))
    item = mapper(backend, [crop], use_instance_mask=True, recompute_boxes=True, instance_mask_format=mask_format)(record)
    boxes = item["instances"].gt_boxes.tensor
    assert 0 < len(boxes) and torch.equal(boxes, item["instances"].gt_masks.get_bounding_boxes().tensor)
    assert boxes.min() >= 0 and (boxes[:, 2:] <= torch.tensor([80, 60])).all()
    with pytest.raises(AssertionError):
        mapper(backend, recompute_boxes=True)


def test_images_without_annotations_have_no_instances(backend, record):
    assert "instances" not in mapper(backend)({key: value for key, value in record.items() if key != "annotations"})
    assert len(mapper(backend, use_instance_mask=True)({**record, "annotations": []})["instances"]) == 0


def test_a_missing_image_and_an_image_of_another_size_are_named(backend, record):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        mapper(backend)({**record, "file_name": str(Path(record["file_name"]).with_name("nowhere.png"))})
    with pytest.raises(backend.get("data.detection_utils").SizeMismatchError, match=r"0\.png"):
        mapper(backend)({**record, "height": 171})


def test_the_config_and_the_arguments_define_the_mapper(backend, log_lines):
    lines, data = log_lines("detectron2.data.dataset_mapper"), backend.get("data")
    cfg = small_config(backend, "INPUT.CROP.ENABLED", True, "INPUT.MASK_FORMAT", "bitmask", "INPUT.FORMAT", "RGB")
    train, test = data.DatasetMapper(cfg, True), data.DatasetMapper(cfg, False, image_format="L")
    assert [type(one).__name__ for one in train.augmentations.augs] == ["RandomCrop", "ResizeShortestEdge", "RandomFlip"]
    assert (train.image_format, train.instance_mask_format, train.use_instance_mask, train.recompute_boxes) == (
        "RGB",
        "bitmask",
        True,
        True,
    )
    assert len(test.augmentations.augs) == 1 and not test.recompute_boxes and test.image_format == "L"
    assert lines[1] == (
        "[DatasetMapper] Augmentations used in inference: "
        "[ResizeShortestEdge(short_edge_length=(48, 48), max_size=60, sample_style='choice')]"
    )


@pytest.mark.parametrize("key", ["MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"])
def test_the_subset_names_what_it_cannot_map(subset, key):
    with pytest.raises(NotImplementedError, match="install detectron2"):
        subset.get("data").DatasetMapper(small_config(subset, key, True), True)


CONFIGS = {
    "default": [],
    "flip": ["INPUT.RANDOM_FLIP", "vertical", "INPUT.MIN_SIZE_TRAIN", (30, 40), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"],
    "bitmask": ["INPUT.MASK_FORMAT", "bitmask", "INPUT.FORMAT", "RGB"],
    "crop": ["INPUT.CROP.ENABLED", True],
    "absolute": [
        "INPUT.CROP.ENABLED",
        True,
        "INPUT.CROP.TYPE",
        "absolute_range",
        "INPUT.CROP.SIZE",
        [60, 150],
        "INPUT.MASK_FORMAT",
        "bitmask",
    ],
    "no masks": ["MODEL.MASK_ON", False, "INPUT.CROP.ENABLED", True],
}


def scale_jitter(backend, mask_format):
    transforms = backend.get("data.transforms")
    augmentations = [transforms.ResizeScale(0.8, 1.25, 96, 96), transforms.FixedSizeCrop((96, 96)), transforms.RandomFlip()]
    return mapper(backend, augmentations, use_instance_mask=True, recompute_boxes=True, instance_mask_format=mask_format)


@pytest.mark.parametrize("options", [*CONFIGS, "jitter polygon", "jitter bitmask"])
@pytest.mark.parametrize("photographs", [False, True])
def test_both_backends_map_alike_with_the_same_seed(subset, real, tmp_path, request, options, photographs):
    folder = request.getfixturevalue("shared_dir") / "data" / "coco_subset" if photographs else tmp_path
    path, images = (folder / "instances.json", folder / "images") if photographs else (write_dataset(tmp_path), tmp_path)

    def mapped(backend) -> list[dict]:
        jitter = options.startswith("jitter")
        mapping = (
            scale_jitter(backend, options.split()[1])
            if jitter
            else backend.get("data").DatasetMapper(small_config(backend, *CONFIGS[options]), True)
        )
        with registered(backend, path, images) as records:
            return [mapping(record) for record in records if usable(record)][:12]

    pairs = same_seed(subset, real, mapped)
    assert sum(assert_same_item(*pair) for pair in pairs) > 8


def test_both_backends_turn_run_lengths_of_photographs_into_the_same_masks(subset, real, shared_dir):
    folder = shared_dir / "data" / "coco_subset"

    def crowds(backend) -> list[dict]:
        mapping = backend.get("data").DatasetMapper(small_config(backend, "INPUT.MASK_FORMAT", "bitmask"), True)
        with registered(backend, folder / "instances.json", folder / "images") as records:
            records = [{**one, "annotations": [{**a, "iscrowd": 0} for a in one["annotations"] if a["iscrowd"]]} for one in records]
        return [mapping(record) for record in records if record["annotations"]][:5]

    assert sum(assert_same_item(*pair) for pair in same_seed(subset, real, crowds)) >= 5
