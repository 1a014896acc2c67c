"""The mapper turns records into the input of a detector as documented on every backend present, and alike on both."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.detectron2_subset.detections import assert_same_item, registered, same_draws, small_config, write_data_set


def mapper(backend, augmentations=(), is_train: bool = True, image_format: str = "RGB", **options: object):
    return backend.get("data").DatasetMapper(is_train=is_train, augmentations=list(augmentations), image_format=image_format, **options)


@pytest.fixture
def records(backend, tmp_path):
    """Eight images with three instances and a crowd each."""
    return backend.get("data.datasets").load_coco_json(write_data_set(tmp_path), str(tmp_path))


def test_training_items_hold_image_and_instances(backend, records):
    before = copy.deepcopy(records[0])
    item = mapper(backend, use_instance_mask=True)(records[0])
    pixels = np.asarray(Image.open(records[0]["file_name"]))
    assert records[0] == before
    assert item["image"].dtype == torch.uint8 and np.array_equal(item["image"].numpy().transpose(1, 2, 0), pixels)
    assert "annotations" not in item and {key: item[key] for key in ("height", "width", "image_id")} == {
        "height": 40,
        "width": 60,
        "image_id": 0,
    }
    assert len(item["instances"]) == len(item["instances"].gt_masks) == 3 and item["instances"].image_size == (40, 60)


def test_inference_items_hold_the_image_only(backend, records):
    item = mapper(backend, is_train=False, image_format="BGR")(records[0])
    assert item.keys() == {"file_name", "height", "width", "image_id", "image"}
    pixels = np.asarray(Image.open(records[0]["file_name"]))
    assert np.array_equal(item["image"].numpy().transpose(1, 2, 0)[..., ::-1], pixels)


def test_masks_are_left_out_on_request(backend, records):
    assert not mapper(backend)(records[0])["instances"].has("gt_masks")


def test_instances_follow_the_augmentation_and_size_stays_that_of_the_file(backend, records):
    transforms = backend.get("data.transforms")
    plain = mapper(backend, use_instance_mask=True)(records[0])
    item = mapper(backend, [transforms.Resize((80, 120)), transforms.RandomFlip(1.0)], use_instance_mask=True)(records[0])
    assert item["image"].shape == (3, 80, 120) and (item["height"], item["width"]) == (40, 60)
    x0, y0, x1, y1 = plain["instances"].gt_boxes.tensor.T
    assert torch.allclose(item["instances"].gt_boxes.tensor, torch.stack([120 - 2 * x1, 2 * y0, 120 - 2 * x0, 2 * y1], dim=1), atol=1e-4)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_boxes_can_be_those_of_the_visible_masks(backend, records, mask_format):
    crop = backend.get("data.transforms").CropTransform(10, 5, 30, 25)
    item = mapper(backend, [crop], use_instance_mask=True, recompute_boxes=True, instance_mask_format=mask_format)(records[0])
    instances = item["instances"]
    assert len(instances) > 0 and torch.equal(instances.gt_boxes.tensor, instances.gt_masks.get_bounding_boxes().tensor)
    assert instances.gt_boxes.tensor.min() >= 0 and (instances.gt_boxes.tensor[:, 2:] <= torch.tensor([30, 25])).all()


def test_instances_outside_of_a_crop_are_left_out(backend, records):
    record = {
        **records[0],
        "annotations": [{**records[0]["annotations"][0], "bbox": [20, 20, 5, 5], "segmentation": [[20, 20, 25, 20, 25, 25]]}],
    }
    item = mapper(backend, [backend.get("data.transforms").CropTransform(0, 0, 10, 10)], use_instance_mask=True)(record)
    assert len(item["instances"]) == 0


def test_images_without_annotations_have_no_instances(backend, records):
    assert "instances" not in mapper(backend)({key: value for key, value in records[0].items() if key != "annotations"})
    assert len(mapper(backend, use_instance_mask=True)({**records[0], "annotations": []})["instances"]) == 0


def test_recomputed_boxes_need_masks(backend):
    with pytest.raises(AssertionError):
        mapper(backend, recompute_boxes=True)


def test_a_missing_image_is_named(backend, records):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        mapper(backend)({**records[0], "file_name": str(Path(records[0]["file_name"]).with_name("nowhere.png"))})


def test_an_image_of_another_size_than_the_json_says_is_named(backend, tmp_path):
    path = write_data_set(tmp_path)
    content = json.loads(Path(path).read_text())
    content["images"][0]["height"] += 1
    Path(path).write_text(json.dumps(content))
    record = backend.get("data.datasets").load_coco_json(path, str(tmp_path))[0]
    with pytest.raises(backend.get("data.detection_utils").SizeMismatchError, match=r"0\.png"):
        mapper(backend)(record)


def test_the_config_says_how(backend):
    data, transforms = backend.get("data"), backend.get("data.transforms")
    options = ["INPUT.CROP.ENABLED", True, "INPUT.MASK_FORMAT", "bitmask", "INPUT.FORMAT", "RGB"]
    train = data.DatasetMapper(small_config(backend, *options), True)
    assert [type(one).__name__ for one in train.augmentations.augs] == ["RandomCrop", "ResizeShortestEdge", "RandomFlip"]
    assert (train.image_format, train.instance_mask_format, train.use_instance_mask, train.recompute_boxes) == (
        "RGB",
        "bitmask",
        True,
        True,
    )
    test = data.DatasetMapper(small_config(backend, *options), is_train=False)
    assert isinstance(test.augmentations.augs[0], transforms.ResizeShortestEdge) and len(test.augmentations.augs) == 1
    assert not test.recompute_boxes


def test_arguments_override_the_config(backend):
    assert backend.get("data").DatasetMapper(small_config(backend), True, augmentations=[], image_format="L").image_format == "L"


def test_the_augmentations_are_logged(backend, log_lines):
    lines = log_lines("detectron2.data.dataset_mapper")
    mapper(backend, [backend.get("data.transforms").Resize(3)])
    mapper(backend, is_train=False)
    assert lines == [
        "[DatasetMapper] Augmentations used in training: [Resize(shape=(3, 3))]",
        "[DatasetMapper] Augmentations used in inference: []",
    ]


@pytest.mark.parametrize("key", ["MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"])
def test_the_subset_says_what_it_cannot_map(subset, key):
    with pytest.raises(NotImplementedError, match="install detectron2"):
        subset.get("data").DatasetMapper(small_config(subset, key, True), True)


CONFIGS = [
    [],
    ["INPUT.MASK_FORMAT", "bitmask", "INPUT.FORMAT", "RGB"],
    ["INPUT.CROP.ENABLED", True],
    ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", [20, 50], "INPUT.MASK_FORMAT", "bitmask"],
    ["MODEL.MASK_ON", False, "INPUT.CROP.ENABLED", True],
]


def mapped(backend, path: str, images: Path, options: list, count: int) -> list[dict]:
    records = backend.get("data.datasets").load_coco_json(path, str(images))
    mapping = backend.get("data").DatasetMapper(small_config(backend, *options), True)
    return [mapping(record) for record in records[:count]]


@pytest.mark.parametrize("options", CONFIGS)
def test_both_backends_map_alike_for_the_same_seed(subset, real, tmp_path, options):
    path = write_data_set(tmp_path)
    pairs = same_draws(subset, real, lambda one: mapped(one, path, tmp_path, options, 8))
    assert sum(assert_same_item(*pair) for pair in pairs) > 8


def jittered(backend, path: str, images: Path, mask_format: str, count: int) -> list[dict]:
    transforms = backend.get("data.transforms")
    augmentations = [transforms.ResizeScale(0.8, 1.25, 96, 96), transforms.FixedSizeCrop((96, 96)), transforms.RandomFlip()]
    mapping = mapper(backend, augmentations, use_instance_mask=True, recompute_boxes=True, instance_mask_format=mask_format)
    return [mapping(record) for record in backend.get("data.datasets").load_coco_json(path, str(images))[:count]]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_both_backends_jitter_alike_for_the_same_seed(subset, real, tmp_path, mask_format):
    path = write_data_set(tmp_path)
    pairs = same_draws(subset, real, lambda one: jittered(one, path, tmp_path, mask_format, 8))
    assert sum(assert_same_item(*pair) for pair in pairs) > 8


@pytest.mark.parametrize("options", CONFIGS[:3])
def test_both_backends_map_real_images_alike(subset, real, shared_dir, options):
    folder = shared_dir / "data" / "coco_subset"
    pairs = same_draws(subset, real, lambda one: mapped(one, str(folder / "instances.json"), folder / "images", options, 20))
    assert sum(assert_same_item(*pair) for pair in pairs) > 50


def test_both_backends_turn_run_lengths_of_real_crowds_into_the_same_masks(subset, real, shared_dir):
    folder = shared_dir / "data" / "coco_subset"

    def crowds(backend) -> list[dict]:
        records = backend.get("data.datasets").load_coco_json(str(folder / "instances.json"), str(folder / "images"))
        records = [{**one, "annotations": [{**a, "iscrowd": 0} for a in one["annotations"] if a["iscrowd"]]} for one in records]
        records = [one for one in records if one["annotations"]][:5]
        mapping = backend.get("data").DatasetMapper(small_config(backend, "INPUT.MASK_FORMAT", "bitmask"), True)
        return [mapping(record) for record in records]

    pairs = same_draws(subset, real, crowds)
    assert sum(assert_same_item(*pair) for pair in pairs) >= 5


def test_registered_records_map_by_name(backend, tmp_path):
    with registered(backend, write_data_set(tmp_path)) as name:
        records = backend.get("data").get_detection_dataset_dicts(name)
        item = mapper(backend)(records[0])
    assert set(item["instances"].gt_classes.tolist()) <= {0, 1}
