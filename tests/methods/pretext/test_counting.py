"""Counting: the loss at known counts, views of equal colours, and kernels that are mixed."""

import cv2
import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.methods.pretext.counting import KERNELS, _halved
from tests.methods.test_contract import batch_of, build


def test_the_loss_is_zero_where_wholes_are_sums_and_images_differ_and_the_margin_where_nothing_is_counted(photos):
    model, _ = batch_of("Counting", photos, 2)
    quarters = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0))
    whole = quarters.sum(1, keepdim=True)
    counts = torch.cat([quarters, whole, whole + 10], 1)
    assert model.criterion({"counts": counts})["loss_counting"] == pytest.approx(0, abs=1e-9)
    assert model.criterion({"counts": torch.zeros(2, 6, 3)})["loss_counting"] == 10
    assert model.criterion({"counts": torch.ones(1, 6, 3)})["loss_counting"] == 27  # 3 (1 - 4)^2, beyond the margin


@pytest.mark.parametrize("counter", ["sum of pixels", "constant"])
def test_counters_that_are_no_solution_have_a_ratio_of_a_quarter(photos, counter):
    model, _ = batch_of("Counting", photos, 2)
    view = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    half = torch.nn.functional.interpolate(view, 16, mode="area")
    inputs = [*(part for row in view.chunk(2, 2) for part in row.chunk(2, 3)), half, half.flip(0)]
    values = [x.sum((2, 3)) if counter == "sum of pixels" else torch.ones(2, 3) for x in inputs]
    found = model.metrics({"counts": torch.stack(values, 1), "features": torch.rand(2, 3)})
    assert found["counts_ratio"] == pytest.approx(0.25)


def test_a_half_and_its_quarters_show_the_same_pixels_in_the_same_colours(photos):
    gray = {"DETCON__AUG__GRAY_PROB": "(1.0, 1.0)", "DETCON__COUNTING__KERNELS": '("area",)'}
    model, batch = batch_of("Counting", photos, 4, **gray)
    with d2.EventStorage():
        view, half, other = model.images_of(batch)
    torch.testing.assert_close(torch.nn.functional.interpolate(view, half.shape[-1], mode="area"), half, rtol=1e-3, atol=1e-3)
    for images in (view, half, other):
        pixels = images * model.pixel_std + model.pixel_mean
        assert (pixels.std(1) < 1).all()
    assert not torch.equal(half, other) and half.shape == other.shape


def test_the_partner_is_another_image_and_every_kernel_is_used(photos):
    _, _, samples, _ = build("Counting", photos)
    rng = np.random.default_rng(0)
    image, partner = (rng.integers(0, 256, (80, 80, 3)).astype(np.uint8) for _ in range(2))
    used = set()
    for position in range(40):
        view, half, _ = samples(image, None, position, partner)["views"]
        used |= {name for name, kernel in KERNELS.items() if torch.equal(_halved(view, kernel)["image"], half["image"])}
    assert used == set(KERNELS)


def halves_and_quarters(kernels: tuple[str, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The energy of the finest detail, in parts of all detail, of halved views and of quarters of images without content."""
    rng = np.random.default_rng(seed)
    found: tuple[list[float], list[float]] = ([], [])
    for index in range(60):
        picture = np.clip(128 + 40 * rng.standard_normal((64, 64)), 0, 255).astype(np.float32)
        picture = cv2.GaussianBlur(picture, (0, 0), 0.6)
        half = cv2.resize(picture, (32, 32), interpolation=KERNELS[kernels[index % len(kernels)]])
        for values, tile in zip(found, (half, picture[:32, :32])):
            values.append(float(np.abs(cv2.Laplacian(tile, cv2.CV_32F)).mean() / tile.std()))
    return tuple(map(np.array, found))


def test_with_one_kernel_the_finest_detail_tells_a_half_from_a_quarter_and_mixed_kernels_overlap(photos):
    def separable(kernels: tuple[str, ...]) -> bool:
        halves, quarters = halves_and_quarters(kernels, 0)
        return halves.min() > quarters.max() or halves.max() < quarters.min()

    assert any(separable((name,)) for name in KERNELS)
    spread = [halves_and_quarters(kernels, 0)[0].std() for kernels in (("area",), tuple(KERNELS))]
    assert spread[1] > 2 * spread[0]
