"""Annotations are transformed and become instances as documented on every backend present, and alike on both."""

import copy

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

POLYGON = [2.0, 2, 10, 2, 10, 8]
SIZE = (20, 30)


@pytest.fixture
def utils(backend):
    return backend.get("data.detection_utils")


@pytest.fixture
def transforms(backend):
    return backend.get("data.transforms")


def annotation(backend, segmentation: object = None, **changes: object) -> dict:
    one = {"bbox": [1.0, 2, 5, 6], "bbox_mode": backend.get("structures").BoxMode.XYWH_ABS, "category_id": 3, "iscrowd": 0}
    return one | ({} if segmentation is None else {"segmentation": copy.deepcopy(segmentation)}) | changes


def runs(bits: np.ndarray | None = None) -> dict:
    """Run lengths of a map (20, 30), by default of its left half."""
    if bits is None:
        bits = np.zeros(SIZE)
        bits[:, :15] = 1
    return coco_mask.encode(np.asfortranarray(bits.astype(np.uint8)))


def test_boxes_and_polygons_follow_the_transforms(utils, transforms, backend):
    applied = [transforms.HFlipTransform(30), transforms.ResizeTransform(20, 30, 40, 60)]
    one = annotation(backend, [POLYGON])
    result = utils.transform_instance_annotations(one, applied, (40, 60))
    assert result is one and result["bbox_mode"] == backend.get("structures").BoxMode.XYXY_ABS
    assert result["bbox"].tolist() == [48, 4, 58, 16]
    assert [polygon.tolist() for polygon in result["segmentation"]] == [[56, 4, 40, 4, 40, 16]]


def test_boxes_are_clipped_to_the_image(utils, transforms, backend):
    one = annotation(backend, bbox=[-5, 2, 500, 6])
    assert utils.transform_instance_annotations(one, transforms.NoOpTransform(), SIZE)["bbox"].tolist() == [0, 2, 30, 8]


def test_run_lengths_become_transformed_maps(utils, transforms, backend):
    result = utils.transform_instance_annotations(annotation(backend, runs()), [transforms.HFlipTransform(30)], SIZE)
    bits = result["segmentation"]
    assert bits.shape == SIZE and not bits[:, :15].any() and bits[:, 15:].all()


def test_other_segmentations_cannot_be_transformed(utils, transforms, backend):
    with pytest.raises(ValueError, match="segmentation"):
        utils.transform_instance_annotations(annotation(backend, 3), transforms.NoOpTransform(), SIZE)


def test_a_map_that_does_not_become_as_large_as_the_image_is_refused(utils, transforms, backend):
    with pytest.raises(AssertionError):
        utils.transform_instance_annotations(annotation(backend, runs()), transforms.NoOpTransform(), (21, 30))


def test_instances_hold_boxes_classes_and_masks(utils, backend):
    structures = backend.get("structures")
    instances = utils.annotations_to_instances([annotation(backend, [POLYGON]), annotation(backend, [POLYGON] * 2, category_id=1)], SIZE)
    assert instances.image_size == SIZE and isinstance(instances.gt_boxes, structures.Boxes)
    assert instances.gt_boxes.tensor.tolist() == [[1, 2, 6, 8]] * 2
    assert instances.gt_classes.tolist() == [3, 1] and instances.gt_classes.dtype == torch.int64
    assert isinstance(instances.gt_masks, structures.PolygonMasks)
    assert [len(polygons) for polygons in instances.gt_masks.polygons] == [1, 2]


def test_bitmasks_are_made_of_polygons_run_lengths_and_maps(utils, backend):
    bits = coco_mask.decode(runs())
    square = [0.0, 0, 15, 0, 15, 20, 0, 20]
    sources = [[square], runs(), bits]
    annotations = [annotation(backend, source) for source in sources]
    instances = utils.annotations_to_instances(annotations, SIZE, mask_format="bitmask")
    assert isinstance(instances.gt_masks, backend.get("structures").BitMasks)
    assert all(np.array_equal(mask, bits.astype(bool)) for mask in instances.gt_masks.tensor.numpy())


def test_without_annotations_or_segmentations_there_are_no_masks(utils, backend):
    empty = utils.annotations_to_instances([], SIZE)
    assert len(empty) == 0 and not empty.has("gt_masks") and empty.gt_boxes.tensor.shape == (0, 4) and empty.gt_classes.dtype == torch.int64
    assert not utils.annotations_to_instances([annotation(backend)], SIZE).has("gt_masks")


@pytest.mark.parametrize(
    ("segmentation", "mask_format", "error"),
    [
        (runs(), "polygon", ValueError),
        ([[1.0, 2, 3, 4]], "polygon", ValueError),
        (4, "bitmask", ValueError),
        (np.ones((20, 30, 1), np.uint8), "bitmask", AssertionError),
        ([POLYGON], "nonsense", AssertionError),
    ],
)
def test_segmentations_that_do_not_fit_the_mask_format_are_refused(utils, backend, segmentation, mask_format, error):
    with pytest.raises(error):
        utils.annotations_to_instances([annotation(backend, segmentation)], SIZE, mask_format=mask_format)


@pytest.fixture
def three(backend):
    """The second instance has a flat box, the third no mask."""
    structures = backend.get("structures")
    masks = torch.tensor([1, 1, 0])[:, None, None].expand(3, 4, 4)
    return structures.Instances(
        SIZE,
        gt_boxes=structures.Boxes([[0, 0, 1, 1], [2, 2, 2, 5], [3, 3, 6, 6.0]]),
        gt_classes=torch.tensor([0, 1, 2]),
        gt_masks=structures.BitMasks(masks),
    )


def test_empty_boxes_and_masks_are_filtered(utils, three):
    assert utils.filter_empty_instances(three).gt_classes.tolist() == [0]
    assert utils.filter_empty_instances(three, by_box=False).gt_classes.tolist() == [0, 1]
    assert utils.filter_empty_instances(three, by_mask=False, box_threshold=2.0).gt_classes.tolist() == [2]
    kept, selection = utils.filter_empty_instances(three, return_mask=True)
    assert len(kept) == 1 and selection.tolist() == [True, False, False]
    with pytest.raises(AssertionError):
        utils.filter_empty_instances(three, by_box=False, by_mask=False)


def test_instances_without_masks_are_filtered_by_box(utils, three):
    three.remove("gt_masks")
    assert utils.filter_empty_instances(three).gt_classes.tolist() == [0, 2]


OPTIONS = [
    [],
    ["INPUT.RANDOM_FLIP", "none"],
    ["INPUT.RANDOM_FLIP", "vertical"],
    ["INPUT.MIN_SIZE_TRAIN", (30, 40), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MAX_SIZE_TRAIN", 90],
]


def test_augmentations_follow_the_config(utils, transforms, backend):
    cfg = backend.get("config").get_cfg()
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (30, 40), "INPUT.MIN_SIZE_TEST", 50, "INPUT.MAX_SIZE_TEST", 70])
    resize, flip = utils.build_augmentation(cfg, is_train=True)
    assert isinstance(flip, transforms.RandomFlip) and resize.short_edge_length == (30, 40)
    (resize,) = utils.build_augmentation(cfg, is_train=False)
    shape = resize.get_transform(np.zeros((100, 120, 3), np.uint8))
    assert (shape.new_h, shape.new_w) == (50, 60)
    cfg.INPUT.RANDOM_FLIP = "sideways"
    with pytest.raises(ValueError):
        utils.build_augmentation(cfg, is_train=True)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("is_train", [True, False])
def test_both_backends_build_the_same_augmentations(subset, real, options, is_train):
    descriptions = []
    for one in (subset, real):
        cfg = one.get("config").get_cfg()
        cfg.merge_from_list(options)
        descriptions.append(repr(one.get("data.detection_utils").build_augmentation(cfg, is_train)))
    assert descriptions[0] == descriptions[1]


def test_boxes_of_integers_are_scaled_alike_on_both_backends(subset, real):
    boxes = []
    for one in (subset, real):
        resize = one.get("data.transforms").ResizeTransform(20, 30, 33, 45)
        result = one.get("data.detection_utils").transform_instance_annotations(annotation(one, bbox=[1, 3, 5, 7]), resize, (33, 45))
        boxes.append((result["bbox"].dtype, result["bbox"].tolist()))
    assert boxes[0] == boxes[1]


def test_keypoints_are_refused_by_the_subset(subset):
    one = annotation(subset, keypoints=[1, 2, 2])
    with pytest.raises(NotImplementedError, match="install detectron2"):
        subset.get("data.detection_utils").transform_instance_annotations(one, subset.get("data.transforms").NoOpTransform(), SIZE)
