"""Pooling of boxes from a pyramid, on both backends, and alike."""

import pytest
import torch
from torch.testing import assert_close

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def make(backend, output_size=2, scales=SCALES, sampling_ratio=0, pooler_type="ROIAlignV2"):
    return backend.get("modeling.poolers").ROIPooler(output_size, scales, sampling_ratio, pooler_type)


def boxes(backend, *rows):
    return backend.get("structures").Boxes(torch.tensor(rows).reshape(-1, 4))


def numbered_maps(side=512, images=1):
    """Maps with the number of their level in every cell."""
    return [torch.full((images, 1, int(side * scale), int(side * scale)), float(level)) for level, scale in enumerate(SCALES)]


def test_a_box_is_pooled_from_the_level_of_its_area(backend):
    # sqrt(area) / 224 = 1 is level 4, the third map; each halving is one level lower, and there are only four.
    sides = {0.0: 0, 10.0: 0, 111.9: 0, 112.0: 1, 223.9999: 1, 224.0: 2, 447.0: 2, 448.0: 3, 500.0: 3}
    rows = [[0.0, 0.0, side, side] for side in sides] + [[0.0, 0.0, 448.0, 112.0], [0.0, 0.0, 448.0, 100.0]]
    pooled = make(backend)(numbered_maps(), [boxes(backend, *rows)])
    assert pooled[:, 0, 0, 0].tolist() == [*map(float, sides.values()), 2.0, 1.0]


def test_without_boxes_the_result_is_empty_and_has_its_shape(backend):
    features = [level.expand(2, 3, -1, -1) for level in numbered_maps(64, images=2)]
    assert make(backend, 7)(features, [boxes(backend), boxes(backend)]).shape == (0, 3, 7, 7)
    assert not make(backend).state_dict()


@pytest.mark.parametrize(
    "options", [{"scales": (1 / 4, 1 / 16)}, {"scales": (0.3,)}, {"scales": (1 / 8, 1 / 4)}, {"pooler_type": "NoSuchPooler"}]
)
def test_scales_that_are_no_pyramid_other_types_and_numbers_of_maps_are_refused(backend, options):
    with pytest.raises((AssertionError, ValueError)):
        make(backend, **options)
    for maps in (numbered_maps()[:2], numbered_maps(images=2)):
        with pytest.raises(AssertionError):
            make(backend)(maps, [boxes(backend, [0.0, 0.0, 9.0, 9.0])])


@pytest.mark.parametrize("pooler_type", ["ROIAlign", "ROIAlignV2"])
def test_both_backends_pool_the_same_numbers_also_at_the_boundaries_of_levels(subset, real, pooler_type):
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 4, int(512 * scale), int(512 * scale), generator=generator) for scale in SCALES]
    corners = torch.rand(2, 20, 2, generator=generator) * 200
    rows = torch.cat([corners, corners + torch.rand(2, 20, 2, generator=generator) ** 3 * 300], dim=2)
    sides = [torch.tensor([112.0, 224.0, 448.0])]
    for direction in (0.0, 1000.0):
        near = sides[0]
        for _ in range(8):
            near = torch.nextafter(near, torch.full_like(near, direction))
            sides.append(near)
    sides = torch.cat(sides)[:, None]
    rows = [torch.cat([rows[0], torch.cat([torch.zeros(len(sides), 2), sides, sides], dim=1)]).tolist(), rows[1].tolist()]
    pooled = [make(one, 7, pooler_type=pooler_type)(features, [boxes(one, *image) for image in rows]) for one in (subset, real)]
    assert_close(pooled[0], pooled[1], atol=1e-6, rtol=1e-6)
