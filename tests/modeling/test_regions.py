"""Label maps to cells, ids and pooled features: oracles, independent references, properties, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcon_d2.masks import cells as numpy_cells
from detcon_d2.modeling import downsample_label_map, ids_from_draws, pool_masked_features, regions, sample_mask_ids
from tests.modeling.oracles import relative_error

NONE = 65535
METHODS = ("histogram", "sort", None)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def cells_by(method: str | None, label_map: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """:func:`downsample_label_map` by one of its methods; None: by the one that it chooses."""
    with pytest.MonkeyPatch.context() as patch:
        for name in METHODS[:2] if method else ():
            patch.setattr(regions, f"_most_frequent_by_{name}", getattr(regions, f"_most_frequent_by_{method}"))
        return downsample_label_map(label_map, size)


def sampled(cells: torch.Tensor, count: int, seed: int = 0) -> torch.Tensor:
    return sample_mask_ids(cells, count, torch.Generator().manual_seed(seed))


@pytest.fixture(params=["extract", "full"])
def oracle(request):
    if request.param == "extract":
        return np.load(request.getfixturevalue("fixtures_dir") / "mask_pooling_small.npz")
    return np.load(request.getfixturevalue("shared_dir") / "oracles" / "mask_oracle.npz")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_cells_equal_the_released_code(oracle, method, device):
    for part in "ab":
        label_maps = torch.tensor(oracle[f"{part}/label_maps"][..., 0], device=device)
        expected = oracle[f"{part}/argmax_id"]
        found = cells_by(method, label_maps, expected.shape[1:])
        assert found.dtype == torch.int64
        assert np.array_equal(found.cpu(), expected)


def test_ids_are_drawn_from_those_that_exist_in_the_released_code(oracle):
    cells = torch.tensor(oracle["a/argmax_id"]).int()
    drawn = sampled(cells, 4000)
    for ids, exists in zip(drawn, oracle["a/mask_exists"]):
        assert set(ids.tolist()) == set(np.flatnonzero(exists))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pooled_features_equal_the_released_code(oracle, memory_format):
    features = torch.tensor(oracle["a/features_nhwc"]).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    cells, ids = torch.tensor(oracle["a/argmax_id"]).long(), torch.tensor(oracle["a/fixed_mask_ids"])
    assert relative_error(pool_masked_features(features, cells, ids), oracle["a/pooled_features"]) < 1e-6
    assert relative_error(pool_masked_features(features.double(), cells, ids), oracle["a/pooled_features"]) < 1e-6


@st.composite
def label_maps(draw):
    n, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(st.integers(1, 20))
    size = draw(st.integers(1, height)), draw(st.integers(1, width))
    ids = draw(st.sampled_from([[0], [NONE], [0, 1], [0, NONE], [3, 7, 300, 40000, 65534, NONE], list(range(50))]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.choice(ids, (n, height, width)), size


@given(label_maps())
@settings(max_examples=150, deadline=None)
def test_cells_hold_the_most_frequent_id_ties_to_the_lowest_for_any_size(problem):
    maps, (h, w) = problem
    n, height, width = maps.shape
    expected = np.zeros((n, h, w), np.int64)
    for i in range(n):
        for cy in range(h):
            for cx in range(w):
                pixels = [maps[i, y, x] for y in range(height) for x in range(width) if (y * h // height, x * w // width) == (cy, cx)]
                ids, counts = np.unique(pixels, return_counts=True)
                expected[i, cy, cx] = ids[counts.argmax()]
    for method in METHODS:
        found = cells_by(method, torch.tensor(maps), (h, w))
        assert np.array_equal(found, expected), method


@given(label_maps())
@settings(max_examples=50, deadline=None)
def test_cells_and_ids_equal_the_loaders_numpy_functions(problem):
    maps, size = problem
    cells = downsample_label_map(torch.tensor(maps), size)
    draws = torch.rand(len(maps), 30, generator=torch.Generator().manual_seed(len(maps)))
    draws[:, 0] = float(np.nextafter(np.float32(1), np.float32(0)))
    ids = ids_from_draws(cells, draws)
    for i in range(len(maps)):
        expected = numpy_cells.label_map_to_cells(maps[i], size)
        assert np.array_equal(cells[i], expected)
        existing = np.setdiff1d(expected, [NONE])
        chosen = existing[(draws[i].numpy().astype(np.float64) * len(existing)).astype(int)] if len(existing) else NONE
        assert (ids[i].numpy() == chosen).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16])
def test_any_integer_dtype_is_a_label_map(dtype):
    maps = (torch.arange(2 * 8 * 8).view(2, 8, 8) % 5).to(dtype)
    assert torch.equal(downsample_label_map(maps, (2, 2)), downsample_label_map(maps.long(), (2, 2)))


def test_every_pixel_may_be_a_region_of_its_own():
    maps = torch.arange(224 * 224).view(1, 224, 224)
    first_of_cell = torch.arange(7)[:, None] * 32 * 224 + torch.arange(7) * 32
    for method in ("sort", None):
        assert torch.equal(cells_by(method, maps, (7, 7))[0], first_of_cell)


@pytest.mark.parametrize(
    ("maps", "size", "message"),
    [
        (torch.zeros(8, 8, dtype=torch.int64), (2, 2), r"shape \(8, 8\); expected \(N, H, W\)"),
        (torch.zeros(0, 8, 8, dtype=torch.int64), (2, 2), "none of them 0"),
        (torch.zeros(1, 8, 8), (2, 2), "dtype torch.float32; expected an integer one"),
        (torch.zeros(1, 8, 8, dtype=torch.bool), (2, 2), "dtype torch.bool"),
        (torch.zeros(1, 8, 8, dtype=torch.int64), (9, 2), r"size is \(9, 2\); .* at most the label map's \(8, 8\)"),
        (torch.zeros(1, 8, 8, dtype=torch.int64), (0, 2), r"size is \(0, 2\)"),
        (torch.full((1, 8, 8), 65536), (2, 2), "ids from 65536 to 65536; expected 0..65534, or 65535"),
        (torch.full((1, 8, 8), -1), (2, 2), "ids from -1"),
    ],
)
def test_wrong_label_maps_are_refused(maps, size, message):
    with pytest.raises(ValueError, match=message):
        downsample_label_map(maps, size)


def test_sampling_is_uniform_over_ids_whatever_their_area_and_never_draws_no_region():
    cells = torch.full((1, 7, 7), 5)
    cells[0, 0, 0], cells[0, 0, 1], cells[0, 1] = 1, 2, NONE
    drawn = sampled(cells, 30_000, seed=1)
    assert drawn.dtype == torch.int64 and drawn.shape == (1, 30_000)
    for region in (1, 2, 5):
        # 0.01 is 3.7 standard deviations.
        assert (drawn == region).double().mean().item() == pytest.approx(1 / 3, abs=0.01)
    assert (sampled(torch.full((2, 7, 7), NONE), 16) == NONE).all()


def test_pooling_is_the_mean_of_the_cells_and_zero_without_cells():
    features = torch.randn(2, 3, 4, 5)
    cells = torch.randint(4, (2, 4, 5), dtype=torch.int32)
    ids = torch.tensor([[0, 1, 1, 9], [3, 2, NONE, 0]])
    found = pool_masked_features(features, cells, ids)
    for i in range(2):
        for m, region in enumerate(ids[i]):
            inside = features[i][:, cells[i] == region]
            expected = inside.mean(1) if inside.shape[1] else torch.zeros(3)
            assert torch.allclose(found[i, m], expected, atol=1e-6)


def test_pooling_runs_in_float32_under_autocast_and_passes_the_gradient():
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    cells, ids = torch.randint(3, (2, 4, 4)), torch.tensor([[0, 1], [2, 7]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pool_masked_features(features, cells, ids), pool_masked_features(features.detach(), cells, ids))
        assert pool_masked_features(features.bfloat16(), cells, ids).dtype == torch.float32
    double = features.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pool_masked_features(x, cells, ids), double)


def test_cells_of_another_size_than_the_features_are_refused():
    with pytest.raises(ValueError, match=r"features have shape \(1, 3, 7, 7\), cell_ids \(1, 6, 7\)"):
        pool_masked_features(torch.zeros(1, 3, 7, 7), torch.zeros(1, 6, 7, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"expected \(N, h, w\) and \(N, M\)"):
        ids_from_draws(torch.zeros(2, 7, 7), torch.zeros(3, 16))


def test_draws_choose_among_the_sorted_existing_ids():
    cells = torch.tensor([[[9, 4], [NONE, 4]], [[NONE, NONE], [NONE, NONE]], [[0, 65534], [300, 300]]])
    draws = torch.tensor([[0.0, 0.49, 0.5, 0.99], [0.0, 0.3, 0.6, 0.99], [0.3, 0.34, 0.67, 0.99]])
    expected = [[4, 4, 9, 9], [NONE] * 4, [0, 300, 65534, 65534]]
    assert ids_from_draws(cells, draws).tolist() == expected


def test_sampling_follows_its_generator():
    cells = torch.arange(49).view(1, 7, 7)
    first, second = (sample_mask_ids(cells, 16, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, sample_mask_ids(cells, 16, torch.Generator().manual_seed(4)))
    torch.manual_seed(3)
    assert torch.equal(sample_mask_ids(cells, 16), first)
