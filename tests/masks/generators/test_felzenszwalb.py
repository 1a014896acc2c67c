"""FH is scikit-image's in every label, whatever the image, whichever parts of it are compiled; and it says what does the work."""

import logging
import multiprocessing
import platform
import subprocess
import sys
import warnings

import numba
import numpy as np
import pytest
import skimage

from detcon_d2.masks import build_generator
from detcon_d2.masks.generators import felzenszwalb as fh
from detcon_d2.masks.generators import felzenszwalb_kernels as kernels
from tests.conftest import REPO, SEED

IMAGES_OF_A_KIND = 36
KINDS = {
    "noise": lambda image, rng: image,
    "flat": lambda image, rng: np.full_like(image, rng.integers(256)),
    "quantised": lambda image, rng: image // 64 * 64,
    "two values": lambda image, rng: (image > rng.integers(10, 250)).astype(np.uint8) * np.uint8(rng.integers(1, 255)),
    "grey": lambda image, rng: image[..., :1].repeat(3, axis=2),
    "smooth": lambda image, rng: np.clip(np.cumsum(image % 5 - 2.0, axis=1) + 128, 0, 255).astype(np.uint8),
    "squares": lambda image, rng: np.kron(image[::4, ::4], np.ones((4, 4, 1), np.uint8)),
    "one row": lambda image, rng: image[:1],
    "one column": lambda image, rng: image[:, :1],
    "tiny": lambda image, rng: image[: rng.integers(1, 4), : rng.integers(1, 4)],
    "columns first": lambda image, rng: np.asfortranarray(image),
    "other channels": lambda image, rng: image[..., 0] if rng.random() < 0.5 else np.concatenate([image, image[..., :1]], axis=2),
    "floats": lambda image, rng: (image / 255 * rng.choice([1e-200, 1e-3, 1, 1e3])).astype(rng.choice([np.float32, np.float64])),
}


def draw_image(kind: str, rng: np.random.Generator) -> np.ndarray:
    return KINDS[kind](rng.integers(0, 256, (*rng.integers(2, 45, 2), 3)).astype(np.uint8), rng)


def draw_parameters(rng: np.random.Generator) -> dict:
    return {
        "scale": float(rng.choice([0, 1e-9, 1, 10, 100, 1000, rng.uniform(0, 300)])),
        "sigma": float(rng.choice([0, 0.05, 0.5, 0.8, 0.8, 1.7, 4])),
        "min_size": int(rng.choice([0, 1, 2, 5, 20, 100, 1000])),
    }


def scikit_images(image: np.ndarray, scale: float, sigma: float, min_size: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more than three channels
        return skimage.segmentation.felzenszwalb(image, scale=scale, sigma=sigma, min_size=min_size)


def check(image: np.ndarray, scale: float, sigma: float, min_size: int) -> None:
    found, expected = fh.felzenszwalb(image, scale, sigma, min_size), scikit_images(image, scale, sigma, min_size)
    assert found.dtype == expected.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


@pytest.fixture
def fresh():
    """What does the work is found out anew, in the test and after it."""
    fh._kernels.cache_clear()
    yield
    fh._kernels.cache_clear()


@pytest.mark.seeded
@pytest.mark.filterwarnings("ignore:Got image with third dimension")
@pytest.mark.parametrize("kind", KINDS)
def test_every_label_is_scikit_images(kind):
    for index in range(IMAGES_OF_A_KIND):
        rng = np.random.default_rng([SEED, index])
        image, parameters = draw_image(kind, rng), draw_parameters(rng)
        print(f"seed {SEED}, case {index}: {image.dtype} {image.shape} {parameters}")
        check(image, **parameters)


def test_a_large_image_and_photographs():
    check(np.random.default_rng(SEED).integers(0, 256, (500, 700, 3)).astype(np.uint8), 1000, 0.8, 1000)
    check(skimage.data.coffee(), **build_generator("fh").params())
    check(skimage.data.camera()[::2, ::2], 50, 0.8, 30)
    check(skimage.data.chelsea()[::2, ::-2], 100, 0.5, 100)


def test_the_smoothing_of_the_installed_library_takes_the_place_of_the_compiled_one(monkeypatch):
    monkeypatch.setattr(fh, "_same_blur", lambda *_: False)
    check(skimage.data.astronaut()[:200, :150], 100, 0.8, 50)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere SciPy may be compiled with fused multiply-add")
@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.5, 0.8, 2.0, 30.0])
def test_the_smoothing_needs_no_replacement(sigma):
    assert fh._same_blur(kernels, sigma)


@pytest.mark.seeded
def test_where_the_order_of_equal_costs_is_said_not_to_matter_it_does_not():
    seen = {True: 0, False: 0}
    for index in range(120):
        rng = np.random.default_rng([SEED, index])
        image = rng.integers(0, 3, (12, 14, 1)) / 2.0
        costs = fh._numpys_costs(image)
        sorted_costs, sorted_edges = fh._as_numpy_sorts(costs)
        scale, min_size = rng.choice([0.0, 0.3, 1.0, 5.0]), int(rng.choice([1, 3, 10]))
        labels, exact = kernels.segment(sorted_costs, sorted_edges, 12, 14, scale, min_size)
        others = []
        for _ in range(12):
            order = np.lexsort((rng.random(len(sorted_costs)), sorted_costs))
            others.append(kernels.segment(sorted_costs, sorted_edges[order], 12, 14, scale, min_size)[0])
        same = all(np.array_equal(labels, other) for other in others)
        assert same or not exact, f"seed {SEED}, case {index}"
        seen[same] += 1
    assert min(seen.values()) > 5  # the images are such that it matters in some and not in others


def test_costs_that_differ_in_their_last_bits_are_sorted():
    # 200 costs within 200 units in the last place: the sort keys of all are equal.
    costs = np.zeros((4, 1, 201))
    costs[0, 0, :200] = np.random.default_rng(SEED).permutation(0.5 + np.arange(200) * 2.0**-53)
    for count in (20, 201):
        part = np.ascontiguousarray(costs[:, :, :count])
        sorted_costs, sorted_edges = fh._sorted(kernels, part)
        np.testing.assert_array_equal(sorted_costs, np.sort(part[0, 0, :-1]))
        np.testing.assert_array_equal(part[0, 0, sorted_edges], sorted_costs)


def test_scales_share_the_sort_and_are_each_as_alone(monkeypatch):
    image, sorts = skimage.data.chelsea()[:150, :200], []
    sort = fh._sorted
    monkeypatch.setattr(fh, "_sorted", lambda *arguments: sorts.append(1) or sort(*arguments))
    label_maps = build_generator("fh_scales", scales=[30, 300, 1000], min_sizes=[20, 5, 1000])(image, None)
    assert label_maps.shape == (3, 150, 200) and label_maps.dtype == np.uint16 and len(sorts) == 1
    assert label_maps[0].max() > label_maps[1].max() > label_maps[2].max()  # larger scales, fewer regions
    for layer, (scale, min_size) in zip(label_maps, ((30, 20), (300, 5), (1000, 1000))):
        np.testing.assert_array_equal(layer, scikit_images(image, scale, 0.8, min_size))


def test_results_outlive_the_next_image():
    rng = np.random.default_rng(SEED)
    images = rng.integers(0, 256, (2, 30, 40, 3)).astype(np.uint8)
    first = fh.felzenszwalb(images[0], 10, 0.5, 5)
    copy = first.copy()
    fh.felzenszwalb(images[1], 10, 0.5, 5)
    np.testing.assert_array_equal(first, copy)


def test_large_arrays_are_not_kept():
    small, large = fh._scratch("a", np.float64, 10, 10), fh._scratch("b", np.uint8, fh._KEPT_BYTES + 1)
    assert np.shares_memory(small, fh._scratch("a", np.uint32, 7)) and not np.shares_memory(large, fh._scratch("b", np.uint8, 9))


def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)


def with_other_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    original = kernels.edge_costs
    monkeypatch.setattr(kernels, "edge_costs", lambda image, out: original(image * (1 + 2.0**-52), out))


def with_other_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    original = kernels.segment
    monkeypatch.setattr(kernels, "segment", lambda *arguments: (original(*arguments)[0] * 0, True))


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [
        (without_numba, "ModuleNotFoundError: import of numba halted"),
        (without_compiler, "NUMBA_DISABLE_JIT is set"),
        (with_other_costs, "its costs are not those of NumPy"),
        (with_other_regions, "its regions are not those of scikit-image"),
    ],
)
def test_where_numba_fails_scikit_image_does_the_work_and_one_line_says_why(obstacle, reason, fresh, monkeypatch, caplog):
    obstacle(monkeypatch)
    with caplog.at_level(logging.INFO):
        assert fh.implementation() == "scikit-image"
        image = np.random.default_rng(SEED).integers(0, 256, (20, 30, 3)).astype(np.uint8)
        check(image, 100, 0.8, 10)
        np.testing.assert_array_equal(fh.felzenszwalb_scales(image, [1, 9], 0.8, [2, 3])[1], scikit_images(image, 9, 0.8, 3))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert reason in caplog.text and "pip install 'detcon_d2[fast]'" in caplog.text


def test_one_line_says_that_numba_does_the_work_and_workers_say_nothing(fresh, monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        assert fh.implementation() == fh.implementation() == "numba"
        assert [record.levelname for record in caplog.records] == ["INFO"] and "by numba" in caplog.text
        fh._kernels.cache_clear()
        monkeypatch.setattr(fh, "parent_process", multiprocessing.current_process)
        assert fh.implementation() == "numba" and len(caplog.records) == 1


@pytest.mark.parametrize("name", ["fh", "fh_scales", "hierarchy"])
def test_preparing_compiles(name, monkeypatch):
    calls = []
    monkeypatch.setattr(fh, "_kernels", lambda: calls.append(1))
    build_generator(name).prepare()
    assert calls == [1]


def test_numba_is_imported_by_the_first_image_only():
    code = (
        "import sys; from detcon_d2.masks import build_generator; import numpy as np; g = build_generator('fh_scales'); "
        "assert 'numba' not in sys.modules; g(np.zeros((4, 4, 3), np.uint8), None); assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
