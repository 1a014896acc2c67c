"""Boxes, masks, Instances and ImageList behave as documented on both backends, and give the same numbers."""

import numpy as np
import pytest
import torch

SQUARE = [2.0, 2, 6, 2, 6, 6, 2, 6]
TRIANGLE = [4.0, 4, 8, 4, 8, 8]


@pytest.fixture
def structures(backend):
    return backend.get("structures")


def random_boxes(count: int, side: float = 20.0, seed: int = 0) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * side
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def test_boxes_are_float32_rows_of_four(structures):
    for source in ([[1, 2, 3, 4]], np.array([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 4]], dtype=torch.float64)):
        assert structures.Boxes(source).tensor.dtype == torch.float32
    assert structures.Boxes([]).tensor.shape == structures.Boxes(torch.zeros(0)).tensor.shape == (0, 4)
    with pytest.raises(AssertionError):
        structures.Boxes(torch.zeros(3, 5))


def test_boxes_scale_clip_and_know_what_is_empty_or_inside(structures):
    boxes = structures.Boxes([[1, 2, 4, 6], [0, 0, 0, 5]])
    assert boxes.nonempty().tolist() == [True, False] and boxes.nonempty(threshold=3).tolist() == [False, False]
    boxes.scale(2, 0.5)
    assert boxes.tensor.tolist() == [[2, 1, 8, 3], [0, 0, 0, 2.5]]
    boxes = structures.Boxes([[-1, 2, 9, 9]])
    boxes.clip((5, 6))
    assert boxes.tensor.tolist() == [[0, 2, 6, 5]]
    with pytest.raises(AssertionError):
        structures.Boxes([[float("nan"), 0, 1, 1]]).clip((5, 5))
    boxes = structures.Boxes([[0, 0, 4, 4], [-1, 0, 4, 4], [0, 0, 5, 4], [0, 0, 5.5, 4]])
    assert boxes.inside_box((5, 5)).tolist() == [True, False, False, False]
    assert boxes.inside_box((5, 5), 1).tolist() == [True, True, True, True]


def test_boxes_index_iterate_and_concatenate(structures):
    boxes = structures.Boxes(random_boxes(3))
    assert torch.equal(boxes[-1].tensor, boxes.tensor[2:]) and [row.shape for row in boxes] == [(4,)] * 3
    assert torch.equal(boxes[torch.tensor([True, False, True])].tensor, boxes.tensor[[0, 2]])
    assert torch.equal(structures.Boxes.cat([boxes[:1], boxes[1:]]).tensor, boxes.tensor) and len(structures.Boxes.cat([])) == 0
    with pytest.raises(AssertionError):
        boxes[torch.zeros(3, 4, dtype=torch.bool)]


def test_pairwise_iou_is_zero_for_empty_boxes_and_one_for_equal_ones(structures):
    boxes = structures.Boxes([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 5, 5]])
    expected = [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]
    assert torch.allclose(structures.pairwise_iou(boxes, boxes), torch.tensor(expected))


@pytest.mark.parametrize("box", [[1, 2, 3, 4], (1.5, 2.0, 3.0, 4.0), np.array([[1.0, 2, 3, 4]]), torch.tensor([[1.0, 2, 3, 4]])])
def test_box_modes_convert_to_a_new_object_of_the_same_type(structures, box):
    mode = structures.BoxMode
    x, y, w, h = np.array(box).reshape(-1).tolist()
    corners = mode.convert(box, mode.XYWH_ABS, mode.XYXY_ABS)
    assert type(corners) is type(box) and np.array(corners).reshape(-1).tolist() == [x, y, x + w, y + h]
    assert np.array(mode.convert(corners, mode.XYXY_ABS, mode.XYWH_ABS)).reshape(-1).tolist() == [x, y, w, h]
    assert np.array(box).reshape(-1).tolist() == [x, y, w, h]


def test_box_mode_numbers_are_those_in_files_and_other_modes_are_refused(structures):
    assert [int(mode) for mode in structures.BoxMode] == [0, 1, 2, 3, 4]
    assert structures.BoxMode.convert([1, 2, 3, 4], 1, 0) == [1, 2, 4, 6]
    for box, mode in (([1, 2, 3, 4], structures.BoxMode.XYXY_REL), ([1, 2, 3], structures.BoxMode.XYWH_ABS)):
        with pytest.raises((AssertionError, NotImplementedError)):
            structures.BoxMode.convert(box, mode, structures.BoxMode.XYXY_ABS)


def test_instances_have_fields_of_one_length(structures):
    instances = structures.Instances((5, 6), scores=torch.zeros(3))
    instances.gt_boxes = structures.Boxes(random_boxes(3))
    assert len(instances) == 3 and instances.image_size == (5, 6)
    assert instances.has("scores") and not instances.has("masks") and set(instances.get_fields()) == {"scores", "gt_boxes"}
    with pytest.raises(AssertionError):
        instances.labels = torch.zeros(2)
    with pytest.raises(AttributeError):
        _ = instances.labels
    instances.remove("scores")
    assert not instances.has("scores")


def test_instances_index_move_and_join_all_fields(structures):
    boxes = structures.Boxes(random_boxes(3))
    instances = structures.Instances((5, 6), boxes=boxes, names=["a", "b", "c"], ids=torch.arange(3))
    assert instances[-1].names == ["c"] and instances[1:].names == ["b", "c"] and len(instances[1].boxes) == 1
    assert instances.to("cpu").names == instances.names
    assert structures.Instances((1, 1), ids=torch.zeros(1)).to(torch.int64).ids.dtype == torch.int64
    kept = structures.Instances((5, 6), boxes=boxes, ids=torch.arange(3))
    assert kept[torch.tensor([True, False, True])].ids.tolist() == [0, 2]
    joined = structures.Instances.cat([kept[2], kept[:2]])
    assert joined.ids.tolist() == [2, 0, 1] and torch.equal(joined.boxes.tensor, boxes.tensor[[2, 0, 1]]) and joined.image_size == (5, 6)
    with pytest.raises(IndexError):
        instances[3]


def test_instances_are_neither_iterable_nor_sized_without_fields(structures):
    for function in (len, iter):
        with pytest.raises(NotImplementedError):
            function(structures.Instances((1, 1)))


def test_bitmasks_know_emptiness_and_tight_boxes(structures):
    tensor = torch.zeros(2, 4, 5)
    tensor[0, 1:3, 2:4] = 1
    masks = structures.BitMasks(tensor)
    assert masks.tensor.dtype == torch.bool and tuple(masks.image_size) == (4, 5) and [mask.sum() for mask in masks] == [4, 0]
    assert masks.nonempty().tolist() == [True, False]
    assert masks.get_bounding_boxes().tensor.tolist() == [[2, 1, 4, 3], [0, 0, 0, 0]]
    assert len(masks[0]) == 1 and len(masks[torch.tensor([True, False])]) == 1
    with pytest.raises(AssertionError):
        structures.BitMasks(torch.zeros(4, 5))


def test_polygons_index_and_know_emptiness_and_tight_boxes(structures):
    polygons = structures.PolygonMasks([[np.array(SQUARE)], [[0, 0, 2, 0, 2, 2], np.array(TRIANGLE)]])
    assert polygons.get_bounding_boxes().tensor.tolist() == [[2, 2, 6, 6], [0, 0, 8, 8]]
    assert polygons.nonempty().tolist() == [True, True] and structures.PolygonMasks([[]]).nonempty().tolist() == [False]
    for index in (1, slice(1, 2), [1], torch.tensor([1]), torch.tensor([False, True])):
        assert [len(instance) for instance in polygons[index]] == [2]
    assert polygons.to("cpu") is polygons


@pytest.mark.parametrize("bad", [[[np.zeros(5)]], [[np.zeros(4)]], [np.zeros(6)], np.zeros(6)])
def test_malformed_polygons_are_refused(structures, bad):
    with pytest.raises((ValueError, AssertionError)):
        structures.PolygonMasks(bad)


def test_polygons_are_cropped_to_the_box_as_coco_rasterises_them(structures):
    masks = structures.PolygonMasks([[SQUARE], [SQUARE], [SQUARE], []])
    crops = masks.crop_and_resize(torch.tensor([[2.0, 2, 6, 6], [0, 0, 8, 8], [4, 0, 8, 8], [0, 0, 4, 4]]), 8)
    expected = torch.zeros(4, 8, 8, dtype=torch.bool)
    expected[0] = expected[1, 2:6, 2:6] = expected[2, 2:6, :4] = True
    assert torch.equal(crops, expected)
    assert structures.PolygonMasks([]).crop_and_resize(torch.zeros(0, 4), 5).shape == (0, 5, 5)
    for wrong in (masks, structures.BitMasks(torch.ones(1, 4, 4))):
        with pytest.raises(AssertionError):
            wrong.crop_and_resize(torch.zeros(2, 4), 4)


@pytest.mark.parametrize("divisibility", [0, 4])
def test_images_are_padded_with_zeros_at_the_right_and_bottom(structures, divisibility):
    images = [torch.ones(3, 4, 5), torch.full((3, 6, 2), 2.0)]
    batch = structures.ImageList.from_tensors(images, divisibility)
    assert batch.tensor.shape == ((2, 3, 8, 8) if divisibility else (2, 3, 6, 5)) and len(batch) == 2
    assert [tuple(map(int, size)) for size in batch.image_sizes] == [(4, 5), (6, 2)]
    assert torch.equal(batch.tensor[0, :, :4, :5], images[0]) and torch.equal(batch.tensor[1, :, :6, :2], images[1])
    assert batch.tensor.sum() == images[0].sum() + images[1].sum()
    with pytest.raises(AssertionError):
        structures.ImageList.from_tensors([torch.ones(3, 4, 5), torch.ones(1, 4, 5)])


def test_both_backends_crop_alike(subset, real):
    rng, boxes = np.random.default_rng(0), random_boxes(12, 40)
    polygons = [[rng.uniform(0, 40, 10) for _ in range(1 + index % 2)] for index in range(12)]
    bitmaps = torch.rand(12, 45, 50, generator=torch.Generator().manual_seed(0)) > 0.3
    # Two thin boxes: their enlargement is limited.
    boxes[-2:, 2] = boxes[-2:, 0] + 0.01
    for kind, content, size in (("PolygonMasks", polygons, 28), ("BitMasks", bitmaps, 14)):
        masks = [getattr(each.get("structures"), kind)(content) for each in (subset, real)]
        crops = [each.crop_and_resize(boxes, size) for each in masks]
        assert torch.equal(*crops) and crops[0].any()
        assert torch.equal(*(each.get_bounding_boxes().tensor for each in masks))
