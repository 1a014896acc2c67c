"""Resizing agrees with float64 references written from the kernel's definition, with torch, PIL and OpenCV."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detcon_d2.views.resize import INTERPOLATIONS, nearest_indices, resize_cubic

SIZES = [(375, 300, 224), (100, 37, 64), (17, 200, 97), (1, 1, 32), (2, 3, 8), (32, 32, 32), (500, 5, 7)]


def reference_1d(values: np.ndarray, target: int, a: float, replicate: bool) -> np.ndarray:
    """Cubic convolution of one line in float64, tap by tap."""
    out = np.zeros(target)
    for i in range(target):
        center = (i + 0.5) * len(values) / target - 0.5
        first = int(np.floor(center)) - 1
        total = 0.0
        for j in range(first, first + 4):
            d = abs(j - center)
            weight = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4)
            if not replicate and not 0 <= j < len(values):
                continue
            out[i] += weight * values[min(max(j, 0), len(values) - 1)]
            total += weight
        out[i] /= total
    return out


@pytest.mark.parametrize("name", ["bicubic_tf", "bicubic_torch"])
@pytest.mark.parametrize("height, width, size", SIZES)
def test_cubic_resize_is_the_kernel_tap_by_tap(name, height, width, size):
    image = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    kind = INTERPOLATIONS[name]
    tall = np.apply_along_axis(reference_1d, 0, image.astype(np.float64), size, kind.a, kind.replicate)
    expected = np.apply_along_axis(reference_1d, 1, tall, size, kind.a, kind.replicate)
    np.testing.assert_allclose(resize_cubic(image, size, kind), expected, atol=1e-5)


@pytest.mark.parametrize("height, width, size", SIZES)
def test_bicubic_torch_is_torchs(height, width, size):
    image = np.random.default_rng(1).random((height, width, 3), dtype=np.float32)
    tensor = torch.from_numpy(image).double().permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(tensor, (size, size), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    np.testing.assert_allclose(resize_cubic(image, size, INTERPOLATIONS["bicubic_torch"]), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("height, width, size", SIZES)
def test_bicubic_pil_is_pils(height, width, size):
    image = np.random.default_rng(2).random((height, width), dtype=np.float32)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(resize_cubic(image[..., None], size, INTERPOLATIONS["bicubic_pil"])[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("source, target", [(100, 10), (375, 224), (37, 224), (1, 224), (224, 224), (225, 97), (97, 225), (333, 7)])
def test_nearest_is_torchs_and_opencvs_exact_one(source, target):
    line = np.arange(source, dtype=np.uint16)
    picked = line[nearest_indices(source, target)]
    centers = (np.arange(target) + 0.5) * source / target
    np.testing.assert_array_equal(picked, np.floor(centers))
    tensor = torch.from_numpy(line.astype(np.float64))[None, None]
    np.testing.assert_array_equal(picked, torch.nn.functional.interpolate(tensor, target, mode="nearest-exact")[0, 0].numpy())
    # 2-D, because OpenCV has no lines; uint16 as label maps are.
    square = np.repeat(line[None], 2, axis=0)
    np.testing.assert_array_equal(picked, cv2.resize(square, (target, 2), interpolation=cv2.INTER_NEAREST_EXACT)[0])
