"""Photometric augmentation on the device is the worker's, image by image, and the model's loss with it."""

import copy

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.views.photometric import JITTER_OPERATORS, PhotometricAugmentation, PhotometricTransform
from detcon_d2.views.photometric_device import apply_photometric
from tests.methods.test_detcon import batch, build
from tests.views.test_photometric import random_image

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def planes(images: list[np.ndarray], device: str = "cpu") -> torch.Tensor:
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images]).to(device)


def assert_equals_worker(images: list[np.ndarray], transforms: list[PhotometricTransform], device: str) -> None:
    found = apply_photometric(planes(images, device), transforms)
    assert found.dtype == torch.float32 and found.device.type == device
    expected = planes([transform.apply_image(image) for image, transform in zip(images, transforms, strict=True)])
    torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=0)


def drawn(operators: str, count: int) -> list[PhotometricTransform]:
    augmentation = PhotometricAugmentation(
        operators=operators,
        jitter_prob=0.8,
        strengths=(0.8, 0.8, 0.8, 0.3),
        gray_prob=0.2,
        blur_prob=0.5,
        blur_sigma=(0.1, 2.0),
        blur_kernel=0.1,
        solarize_prob=0.3,
        solarize_threshold=0.5,
    )
    return [augmentation.sample(np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operators", JITTER_OPERATORS)
def test_drawn_batches_are_the_workers(operators, device):
    assert_equals_worker([random_image(seed) for seed in range(48)], drawn(operators, 48), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operators", JITTER_OPERATORS)
@pytest.mark.parametrize("operator", range(4))
def test_each_operator_is_the_workers(operators, operator, device):
    amounts = (-0.5, -0.1, 0.0, 0.2, 0.5) if operator == 3 or (operator == 0 and operators == "dm_pix") else (0.0, 0.2, 1.0, 1.8)
    transforms = [PhotometricTransform(operators=operators, jitter=((operator, amount),)) for amount in amounts]
    assert_equals_worker([random_image(seed) for seed in range(len(amounts))], transforms, device)


@pytest.mark.parametrize("device", DEVICES)
def test_grey_blur_and_solarize_are_the_workers(device):
    changes = [{"blur_sigma": 0.05}, {"blur_sigma": 0.5}, {"blur_sigma": 2.0}, {"gray": True}, {"solarize_threshold": 0.4}, {}]
    transforms = [PhotometricTransform(blur_kernel=0.3, **change) for change in changes]
    assert_equals_worker([random_image(seed) for seed in range(len(changes))], transforms, device)
    # A kernel of one tap changes nothing.
    assert_equals_worker([random_image(0)], [PhotometricTransform(blur_sigma=2.0, blur_kernel=0.01)], device)


def test_bytes_are_taken_as_fractions_and_inputs_are_not_written():
    images = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8)
    floats = images / 255
    before, transforms = floats.clone(), drawn("dm_pix", 4)
    torch.testing.assert_close(apply_photometric(images, transforms), apply_photometric(floats, transforms))
    assert torch.equal(floats, before)


def test_autocast_does_not_touch_it():
    images, transforms = planes([random_image(seed) for seed in range(8)]), drawn("torchvision", 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = apply_photometric(images, transforms)
    assert torch.equal(found, apply_photometric(images, transforms))


@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_the_model_finishes_views_that_the_loader_left_to_it(architecture):
    model, records = build(MODEL__META_ARCHITECTURE=architecture), batch()
    on_device = build(MODEL__META_ARCHITECTURE=architecture, DETCON__AUG__WHERE="device")
    left, done = copy.deepcopy(records), copy.deepcopy(records)
    for number, transform in enumerate(drawn("dm_pix", 6)):
        i, n = divmod(number, 3)
        pixels = transform.apply_image(np.ascontiguousarray(records[n]["views"][i]["image"].permute(1, 2, 0).numpy()))
        done[n]["views"][i]["image"] = torch.from_numpy(pixels).permute(2, 0, 1)
        left[n]["views"][i]["photometric"] = transform
    with d2.EventStorage():
        a, b = on_device(left)["loss_detcon"], model(done)["loss_detcon"]
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
