"""Lab is that of scikit-image, the bins are those that sRGB colours hit, and colours survive their soft assignment."""

import numpy as np
import pytest
import skimage.color
import torch

from detcon_d2.modeling.color_bins import AB_BINS, L_BINS, PALETTE, cell_targets, nearest_color, rgb_to_lab, soft_ab, soft_lightness


def lab_of(colors: np.ndarray) -> torch.Tensor:
    """8-bit colours (n, 3) to (1, 3, 1, n)."""
    return rgb_to_lab(torch.tensor(colors / 255, dtype=torch.float32).T[None, :, None])


def random_colors(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3))


def test_lab_is_that_of_scikit_image():
    colors = np.concatenate([random_colors(2000), np.repeat(np.arange(0, 256, 15)[:, None], 3, axis=1), 255 * np.eye(3, dtype=int)])
    expected = skimage.color.rgb2lab(colors[None] / 255)[0]
    np.testing.assert_allclose(lab_of(colors)[0, :, 0].T.numpy(), expected, atol=0.02)


def grid(low: np.ndarray, high: np.ndarray, step: int) -> np.ndarray:
    """All colours between two, (n, 3)."""
    axes = [np.arange(a, b + 1, step) for a, b in zip(low, high)]
    return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3)


def squares_of(colors: np.ndarray) -> set[tuple[float, float]]:
    """The multiples of 10 that the colours are nearest to in ab."""
    return {(10.0 * a, 10.0 * b) for a, b in (lab_of(colors)[0, 1:, 0].T / 10 + 0.5).floor().int().unique(dim=0).tolist()}


def test_the_bins_are_the_squares_that_8_bit_colours_hit():
    # Lightness aside, the surface of the cube of colours shows what its inside can show.
    faces = []
    for axis, value in enumerate((0, 255) * 3):
        low, high = np.zeros(3, int), np.full(3, 255)
        low[axis // 2] = high[axis // 2] = value
        faces.append(grid(low, high, 1))
    colors = np.concatenate([*faces, grid(np.zeros(3, int), np.full(3, 255), 5)])
    hit = squares_of(colors)
    assert len(AB_BINS) == 261 and hit == set(AB_BINS)


def test_soft_assignments_sum_to_1_and_decode_to_the_colour():
    ab = lab_of(random_colors(20000))[:, 1:]
    weights = soft_ab(ab)
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 1, 20000))
    assert ((weights > 0).sum(1) <= 10).all() and (weights >= 0).all()
    decoded = torch.einsum("nqhw,qc->nchw", weights, torch.tensor(AB_BINS))
    error = (decoded - ab).norm(dim=1).flatten()
    assert error.median() < 0.3 and error.quantile(0.99) < 1.2 and error.max() < 4.5
    # The weights written out for one colour.
    distances = (torch.tensor(AB_BINS) - ab[0, :, 0, 7]).norm(dim=1)
    expected = torch.where(distances <= distances.sort().values[9], torch.exp(-(distances**2) / 50), torch.zeros(()))
    torch.testing.assert_close(weights[0, :, 0, 7], expected / expected.sum(), rtol=1e-4, atol=1e-6)


def test_lightness_is_shared_by_the_two_nearest_bins():
    lightness = torch.tensor([0.0, 1.0, 2.0, 41.5, 99.0, 100.0]).view(1, 1, 1, -1)
    weights = soft_lightness(lightness)
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 1, 6))
    decoded = torch.einsum("nqhw,q->nhw", weights, torch.tensor(L_BINS)).flatten()
    torch.testing.assert_close(decoded, torch.tensor([1.0, 1.0, 2.0, 41.5, 99.0, 99.0]))
    assert weights[0, 20, 0, 3] == pytest.approx(0.75) and weights[0, 21, 0, 3] == pytest.approx(0.25)


def test_the_target_of_a_cell_is_the_mean_of_its_pixels():
    ab = torch.rand(18, 2, 16, 16, generator=torch.Generator().manual_seed(0)) * 60 - 30
    found = cell_targets(soft_ab, ab, (2, 2), 4)
    torch.testing.assert_close(found.sum(1), torch.ones(18, 2, 2))
    torch.testing.assert_close(found[17, :, 1, 0], soft_ab(ab)[17, :, [10, 10, 14, 14], [2, 6, 2, 6]].mean(1))


def test_the_palette_is_where_k_means_stays():
    """Hue is uniform, and chroma is exponentially distributed with mean 15."""
    chroma, hue = np.meshgrid(np.arange(0.25, 150, 0.5), np.arange(0.5, 360) * np.pi / 180)
    weights = np.exp(-chroma / 15).ravel()
    points = np.stack([chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1).reshape(-1, 2)
    nearest = nearest_color(torch.tensor(points, dtype=torch.float32).T[None, :, None]).flatten().numpy()
    assert len(PALETTE) == 16 and np.bincount(nearest, weights).min() > 0.01 * weights.sum()
    means = [np.average(points[nearest == k], axis=0, weights=weights[nearest == k]) for k in range(16)]
    np.testing.assert_allclose(means, PALETTE, atol=0.3)


def test_the_nearest_colour_is_a_colour_of_the_palette_itself():
    assert nearest_color(torch.tensor(PALETTE).T.view(1, 2, 4, 4)).tolist() == [torch.arange(16).view(4, 4).tolist()]
    assert nearest_color(torch.tensor([3.0, -2.0]).view(1, 2, 1, 1)) == 0
