"""What R-CNN heads need of boxes, masks and Instances, on every backend present, and alike on both."""

import numpy as np
import pytest
import torch

SQUARE = [2.0, 2, 6, 2, 6, 6, 2, 6]
TRIANGLE = [4.0, 4, 8, 4, 8, 8]


@pytest.fixture
def structures(backend):
    return backend.get("structures")


def random_polygons(count: int, seed: int = 0) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [[rng.uniform(0, 40, 10) for _ in range(1 + index % 2)] for index in range(count)]


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 25
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator) * 20], dim=1)


def test_joined_instances_join_tensors_lists_boxes_and_masks(structures):
    def one(x):
        masks = structures.BitMasks(torch.ones(1, 4, 5))
        return structures.Instances((4, 5), a=torch.tensor([x]), b=[x], c=structures.Boxes([[x, x, x, x]]), d=masks)

    joined = structures.Instances.cat([one(1), one(2), one(3)])
    assert joined.a.tolist() == joined.b == [1, 2, 3]
    assert joined.c.tensor[:, 0].tolist() == [1, 2, 3] and joined.d.tensor.shape == (3, 4, 5)
    assert joined.image_size == (4, 5)
    single = one(1)
    assert structures.Instances.cat([single]) is single


def test_instances_that_do_not_fit_are_not_joined(structures):
    def make(size=(1, 1), **fields):
        return structures.Instances(size, **fields)

    for wrong in ([], [make(a=[1]), "text"], [make(a=[1]), make((1, 2), a=[1])]):
        with pytest.raises(AssertionError):
            structures.Instances.cat(wrong)
    with pytest.raises(KeyError):
        structures.Instances.cat([make(a=[1]), make(b=[1])])
    with pytest.raises(ValueError):
        structures.Instances.cat([make(a="x"), make(a="y")])


def test_a_clone_of_boxes_has_its_own_storage(structures):
    boxes = structures.Boxes([[1, 2, 3, 4]])
    boxes.clone().scale(2, 2)
    assert boxes.tensor.tolist() == [[1, 2, 3, 4]]


def test_polygons_become_the_union_of_their_pixels(structures):
    masks = structures.BitMasks.from_polygon_masks(structures.PolygonMasks([[SQUARE, TRIANGLE], []]), 10, 12)
    assert masks.tensor.shape == (2, 10, 12) and masks.tensor.dtype == torch.bool
    assert masks.tensor[0, 2:6, 2:6].all() and masks.tensor[0, 4, 6] and not masks.tensor[0, :2].any() and not masks.tensor[1].any()
    raw = structures.BitMasks.from_polygon_masks([[np.array(SQUARE)]], 10, 12).tensor[0]
    assert raw.nonzero().amin(0).tolist() == [2, 2] and raw.sum() == 16
    assert structures.BitMasks.from_polygon_masks([], 3, 4).tensor.shape == (0, 3, 4)


def test_polygons_crop_to_their_part_of_the_box(structures):
    masks = structures.PolygonMasks([[SQUARE], [SQUARE], [SQUARE], []])
    boxes = torch.tensor([[2.0, 2, 6, 6], [0, 0, 8, 8], [4, 0, 8, 8], [0, 0, 4, 4]])
    crops = masks.crop_and_resize(boxes, 8)
    assert crops.shape == (4, 8, 8) and crops.dtype == torch.bool
    assert crops[0].all() and not crops[3].any()
    expected = torch.zeros(2, 8, 8, dtype=torch.bool)
    expected[0, 2:6, 2:6] = True
    expected[1, 2:6, :4] = True
    assert torch.equal(crops[1:3], expected)
    assert structures.PolygonMasks([]).crop_and_resize(torch.zeros(0, 4), 5).shape == (0, 5, 5)


@pytest.mark.parametrize("kind", ["BitMasks", "PolygonMasks"])
def test_one_box_a_mask(structures, kind):
    masks = structures.PolygonMasks([[SQUARE]]) if kind == "PolygonMasks" else structures.BitMasks(torch.ones(1, 4, 4))
    with pytest.raises(AssertionError):
        masks.crop_and_resize(torch.zeros(2, 4), 4)


def test_masks_join_move_and_iterate(structures):
    polygons = structures.PolygonMasks([[SQUARE], [TRIANGLE]])
    assert structures.PolygonMasks.cat([polygons, polygons[1]]).area().tolist() == [16, 8, 8]
    assert polygons.to("cpu") is polygons
    assert [instance[0].tolist() for instance in polygons] == [SQUARE, TRIANGLE]
    bitmaps = structures.BitMasks(torch.eye(3)[None].repeat(2, 1, 1))
    assert structures.BitMasks.cat([bitmaps, bitmaps[:1]]).tensor.shape == (3, 3, 3)
    assert bitmaps.to("cpu").tensor.device == torch.device("cpu")
    assert [mask.sum() for mask in bitmaps] == [3, 3]
    for kind in (structures.BitMasks, structures.PolygonMasks):
        with pytest.raises(AssertionError):
            kind.cat([])


def test_a_polygon_is_rasterised_as_coco_does(structures):
    square = structures.polygons_to_bitmask([np.array(SQUARE)], 8, 7)
    assert square.dtype == bool and square.shape == (8, 7) and square.sum() == 16 and square[2:6, 2:6].all()
    assert not structures.polygons_to_bitmask([], 3, 4).any()


def test_both_backends_rasterise_and_crop_alike(subset, real):
    ours, theirs = subset.get("structures"), real.get("structures")
    polygons, boxes = random_polygons(12), random_boxes(12)
    # Thin boxes too: enlarging is limited there.
    boxes[-2:, 2] = boxes[-2:, 0] + 0.01
    crops = [each.PolygonMasks(polygons).crop_and_resize(boxes, 28) for each in (ours, theirs)]
    assert torch.equal(*crops) and crops[0].any()
    bitmaps = [each.BitMasks.from_polygon_masks(polygons, 45, 50) for each in (ours, theirs)]
    assert torch.equal(*(each.tensor for each in bitmaps))
    assert torch.equal(*(each.crop_and_resize(boxes, 14) for each in bitmaps))
    assert torch.equal(*(each.get_bounding_boxes().tensor for each in bitmaps))


@pytest.mark.parametrize("module", ["structures", "layers", "modeling", "modeling.proposal_generator"])
def test_every_public_name_is_detectron2s(subset, real, module):
    for name in subset.get(module).__all__:
        assert hasattr(real.get(module), name), f"{module}.{name}"
