"""Boxes, masks, Instances and ImageList behave as documented on every backend present, and alike on both."""

import numpy as np
import pytest
import torch

SQUARE = [1.0, 1, 3, 1, 3, 3, 1, 3]
TRIANGLE = [4.0, 4, 8, 4, 8, 8]


@pytest.fixture
def structures(backend):
    return backend.get("structures")


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 20
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def test_boxes_are_float32_rows_of_four_whatever_they_are_made_from(structures):
    for source in ([[1, 2, 3, 4]], np.array([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 4]], dtype=torch.float64)):
        assert structures.Boxes(source).tensor.dtype == torch.float32
    assert structures.Boxes([]).tensor.shape == structures.Boxes(torch.zeros(0)).tensor.shape == (0, 4)
    with pytest.raises(AssertionError):
        structures.Boxes(torch.zeros(3, 5))


def test_boxes_area_centres_scaling_and_emptiness(structures):
    boxes = structures.Boxes([[1, 2, 4, 6], [0, 0, 0, 5]])
    assert boxes.area().tolist() == [12, 0]
    assert boxes.get_centers().tolist() == [[2.5, 4], [0, 2.5]]
    assert boxes.nonempty().tolist() == [True, False]
    assert boxes.nonempty(threshold=3).tolist() == [False, False]
    boxes.scale(2, 0.5)
    assert boxes.tensor.tolist() == [[2, 1, 8, 3], [0, 0, 0, 2.5]]


def test_clip_limits_boxes_to_the_image_and_refuses_nan(structures):
    boxes = structures.Boxes([[-1, 2, 9, 9]])
    boxes.clip((5, 6))
    assert boxes.tensor.tolist() == [[0, 2, 6, 5]]
    with pytest.raises(AssertionError):
        structures.Boxes([[float("nan"), 0, 1, 1]]).clip((5, 5))


def test_inside_box_allows_the_threshold_beyond_the_border(structures):
    boxes = structures.Boxes([[0, 0, 4, 4], [-1, 0, 4, 4], [0, 0, 5, 4], [0, 0, 5.5, 4]])
    assert boxes.inside_box((5, 5)).tolist() == [True, False, False, False]
    assert boxes.inside_box((5, 5), 1).tolist() == [True, True, True, True]


def test_boxes_index_iterate_and_concatenate(structures):
    boxes = structures.Boxes(random_boxes(3))
    assert len(boxes[1]) == 1 and torch.equal(boxes[1].tensor[0], boxes.tensor[1])
    assert len(boxes[-1]) == 1 and torch.equal(boxes[-1].tensor[0], boxes.tensor[2])
    assert torch.equal(boxes[torch.tensor([True, False, True])].tensor, boxes.tensor[[0, 2]])
    assert [row.shape for row in boxes] == [(4,)] * 3
    assert torch.equal(structures.Boxes.cat([boxes[:1], boxes[1:]]).tensor, boxes.tensor)
    assert len(structures.Boxes.cat([])) == 0
    with pytest.raises(AssertionError):
        boxes[torch.zeros(3, 4, dtype=torch.bool)]


def test_pairwise_iou_is_zero_for_empty_boxes_and_one_for_equal_ones(structures):
    boxes = structures.Boxes([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 5, 5]])
    expected = [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]
    assert torch.allclose(structures.pairwise_iou(boxes, boxes), torch.tensor(expected))


@pytest.mark.parametrize("box", [[1, 2, 3, 4], (1.5, 2.0, 3.0, 4.0)])
def test_box_modes_convert_sequences_to_the_same_type(structures, box):
    mode = structures.BoxMode
    corners = mode.convert(box, mode.XYWH_ABS, mode.XYXY_ABS)
    assert corners == type(box)([box[0], box[1], box[0] + box[2], box[1] + box[3]])
    assert mode.convert(corners, mode.XYXY_ABS, mode.XYWH_ABS) == box


def test_box_modes_convert_arrays_without_touching_them(structures):
    mode = structures.BoxMode
    for array in (np.array([[1.0, 2, 3, 4]]), torch.tensor([[1.0, 2, 3, 4]]), np.zeros((0, 4))):
        before = array.copy() if isinstance(array, np.ndarray) else array.clone()
        converted = mode.convert(array, mode.XYWH_ABS, mode.XYXY_ABS)
        assert type(converted) is type(array) and converted.dtype == array.dtype
        assert (array == before).all()
        assert (mode.convert(converted, mode.XYXY_ABS, mode.XYWH_ABS) == array).all()


def test_box_mode_numbers_are_those_stored_in_files(structures):
    assert [int(mode) for mode in structures.BoxMode] == [0, 1, 2, 3, 4]
    assert structures.BoxMode.convert([1, 2, 3, 4], 1, 0) == [1, 2, 4, 6]
    with pytest.raises((AssertionError, NotImplementedError)):
        structures.BoxMode.convert([1, 2, 3, 4], structures.BoxMode.XYXY_REL, structures.BoxMode.XYXY_ABS)
    with pytest.raises(AssertionError):
        structures.BoxMode.convert([1, 2, 3], structures.BoxMode.XYWH_ABS, structures.BoxMode.XYXY_ABS)


def test_instances_hold_fields_of_one_length(structures):
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


def test_instances_index_all_fields_alike(structures):
    instances = structures.Instances((5, 6), names=["a", "b", "c"], boxes=structures.Boxes(random_boxes(3)))
    assert instances[1].names == ["b"] and instances[-1].names == ["c"] and len(instances[1].boxes) == 1
    assert instances[1:].names == ["b", "c"]
    kept = structures.Instances((5, 6), scores=torch.arange(3))[torch.tensor([True, False, True])]
    assert kept.scores.tolist() == [0, 2] and kept.image_size == (5, 6)
    with pytest.raises(IndexError):
        instances[3]


def test_instances_move_the_fields_that_can(structures):
    one = structures.Instances((5, 6), names=["a"], boxes=structures.Boxes(random_boxes(1)), ids=torch.zeros(1))
    assert one.to("cpu").names == ["a"] and structures.Instances((1, 1), ids=one.ids).to(torch.float64).ids.dtype == torch.float64


def test_instances_are_neither_iterable_nor_sized_without_fields(structures):
    with pytest.raises(NotImplementedError):
        len(structures.Instances((1, 1)))
    with pytest.raises(NotImplementedError):
        iter(structures.Instances((1, 1), a=[1]))


def test_bitmasks_know_emptiness_and_tight_boxes(structures):
    tensor = torch.zeros(2, 4, 5)
    tensor[0, 1:3, 2:4] = 1
    masks = structures.BitMasks(tensor)
    assert masks.tensor.dtype == torch.bool and tuple(masks.image_size) == (4, 5) and len(masks) == 2
    assert masks.nonempty().tolist() == [True, False]
    assert masks.get_bounding_boxes().tensor.tolist() == [[2, 1, 4, 3], [0, 0, 0, 0]]
    assert len(masks[0]) == 1 and len(masks[torch.tensor([True, False])]) == 1
    with pytest.raises(AssertionError):
        structures.BitMasks(torch.zeros(4, 5))


def test_polygon_areas_and_boxes_are_exact(structures):
    polygons = structures.PolygonMasks([[np.array(SQUARE)], [[0, 0, 2, 0, 2, 2], np.array(TRIANGLE)]])
    assert polygons.area().tolist() == [4, 2 + 8]
    assert polygons.get_bounding_boxes().tensor.tolist() == [[1, 1, 3, 3], [0, 0, 8, 8]]
    assert polygons.nonempty().tolist() == [True, True] and structures.PolygonMasks([[]]).nonempty().tolist() == [False]


def test_polygons_index_by_int_slice_list_and_tensors(structures):
    polygons = structures.PolygonMasks([[np.array(SQUARE)], [np.array(TRIANGLE)]])
    for index in (1, slice(1, 2), [1], torch.tensor([1]), torch.tensor([False, True])):
        assert polygons[index].area().tolist() == [8]


@pytest.mark.parametrize("bad", [[[np.zeros(5)]], [[np.zeros(4)]], [np.zeros(6)], np.zeros(6)])
def test_malformed_polygons_are_refused(structures, bad):
    with pytest.raises((ValueError, AssertionError)):
        structures.PolygonMasks(bad)


def test_image_list_pads_at_the_right_and_bottom(structures):
    images = [torch.ones(3, 4, 5), torch.full((3, 6, 2), 2.0)]
    batch = structures.ImageList.from_tensors(images, size_divisibility=4, pad_value=7.0)
    assert batch.tensor.shape == (2, 3, 8, 8) and len(batch) == 2
    assert all(torch.equal(batch[i], images[i]) for i in range(2))
    assert (batch.tensor[0, :, 4:] == 7).all() and (batch.tensor[0, :, :, 5:] == 7).all()
    assert [tuple(map(int, size)) for size in batch.image_sizes] == [(4, 5), (6, 2)]


@pytest.mark.parametrize(
    ("divisibility", "constraints", "side"),
    [(0, {"square_size": 10}, 10), (4, {"size_divisibility": 16}, 16), (0, {"size_divisibility": 16, "square_size": 10}, 16)],
)
def test_padding_constraints_override_the_divisibility(structures, divisibility, constraints, side):
    images = [torch.ones(3, 4, 5), torch.ones(3, 6, 2)]
    batch = structures.ImageList.from_tensors(images, divisibility, padding_constraints=constraints)
    assert batch.tensor.shape == (2, 3, side, side)


def test_image_list_takes_grey_images_and_refuses_different_channels(structures):
    assert structures.ImageList.from_tensors([torch.ones(4, 5)], 4).tensor.shape == (1, 4, 8)
    with pytest.raises(AssertionError):
        structures.ImageList.from_tensors([torch.ones(3, 4, 5), torch.ones(1, 4, 5)])


def test_both_backends_give_the_same_boxes_and_overlaps(subset, real):
    ours, theirs = (one.get("structures") for one in (subset, real))
    first, second = random_boxes(20), random_boxes(30, seed=1)
    results = [lib.pairwise_iou(lib.Boxes(first), lib.Boxes(second)) for lib in (ours, theirs)]
    assert torch.allclose(*results, atol=1e-7)
    for box in ([0.1, 0.2, 0.3, 0.4], first.numpy()):
        converted = [lib.BoxMode.convert(box, lib.BoxMode.XYXY_ABS, lib.BoxMode.XYWH_ABS) for lib in (ours, theirs)]
        assert np.array_equal(*converted)


def test_both_backends_crop_the_same_bitmasks(subset, real):
    tensor = torch.rand(5, 20, 24, generator=torch.Generator().manual_seed(0)) > 0.3
    crops = [lib.get("structures").BitMasks(tensor).crop_and_resize(random_boxes(5), 7) for lib in (subset, real)]
    assert torch.equal(*crops)
