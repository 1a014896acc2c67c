"""Rotation: the angle is all that tells copies apart, and it is not given away."""

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from tests.methods.test_contract import batch_of, build

ONE = {"DETCON__ROTATION__FOUR_PER_IMAGE": False}
PLAIN = {f"DETCON__AUG__{name}_PROB": "(0.0, 0.0)" for name in ("JITTER", "GRAY", "BLUR", "SOLARIZE")}


def test_turning_a_copy_back_gives_the_bytes_of_the_view(photos):
    _, model, samples, _ = build("Rotation", photos)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    view = samples(image, None, 3)["views"][0]["image"][None]
    copies = model.rotated(view, torch.arange(4)[None])[0]
    assert torch.equal(copies[0], view[0])
    for turns, copy in enumerate(copies):
        assert np.array_equal(np.rot90(copy.numpy(), -turns, (1, 2)), view[0].numpy())


def copies_by_label(model: torch.nn.Module, samples: object, *, flip_last: bool) -> list[set[bytes]]:
    """Of one picture that has no symmetry, at many positions: all copies of each label. ``flip_last`` mirrors half of the copies after they
    were rotated, which is the mistake that the order in RotatedView rules out."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[5:20, 8:50] = (200, 30, 90)
    found: list[set[bytes]] = [set() for _ in range(4)]
    for position in range(16):
        sample = samples(picture, None, position)
        copies = model.rotated(sample["views"][0]["image"][None], sample["angles"][None])[0]
        for label, copy in zip(sample["angles"].tolist(), copies):
            mirrored = flip_last and position % 2
            found[label].add((copy.flip(2) if mirrored else copy).numpy().tobytes())
    return found


@pytest.mark.parametrize("every_angle", [True, False])
def test_no_copy_has_two_labels_whatever_the_flip(photos, every_angle):
    whole = {"DETCON__VIEWS__CROP_AREA": "(1.0, 1.0)", "DETCON__VIEWS__CROP_ASPECT": "(1.0, 1.0)", **PLAIN}
    _, model, samples, _ = build("Rotation", photos, **whole, DETCON__ROTATION__FOUR_PER_IMAGE=every_angle)
    found = copies_by_label(model, samples, flip_last=False)
    assert all(found) and sum(map(len, found)) == len(set.union(*found))
    # The other order is caught: copies of 90 and 270 degrees would be the same pictures.
    _, model, samples, _ = build("Rotation", photos, **whole | {"DETCON__VIEWS__FLIP_PROB": 0.5})
    wrong = copies_by_label(model, samples, flip_last=True)
    assert wrong[1] & wrong[3]


def test_one_copy_has_a_sampled_angle_and_every_angle_is_sampled(photos):
    _, _, samples, _ = build("Rotation", photos, **ONE)
    image = np.zeros((64, 64, 3), np.uint8)
    angles = torch.cat([samples(image, None, position)["angles"] for position in range(400)])
    assert (torch.bincount(angles, minlength=4) - 100).abs().max() < 40  # 4.6 standard deviations
    model, batch = batch_of("Rotation", photos, 4, **ONE)
    with d2.EventStorage():
        assert model.embed(batch)["logits"].shape == (4, 1, 4)


def test_two_angles_are_two_classes_in_their_order(photos):
    _, model, _, _ = build("Rotation", photos, DETCON__ROTATION__ANGLES="(90, 270)")
    images = torch.arange(12.0).view(1, 3, 2, 2)
    copies = model.rotated(images, torch.tensor([[0, 1]]))[0]
    assert torch.equal(copies[0], images[0].rot90(1, (1, 2))) and torch.equal(copies[1], images[0].rot90(3, (1, 2)))
    metrics = model.metrics({"logits": torch.eye(2)[None], "labels": torch.tensor([[0, 0]]), "features": torch.ones(1, 3)})
    assert (metrics["accuracy"], metrics["accuracy_90"], metrics["accuracy_270"], metrics["chance"]) == (0.5, 0.5, 0, 0.5)


@pytest.mark.parametrize("angles", ["(0, 45)", "(90,)", "(0, 0)"])
def test_other_angles_are_refused(angles, photos):
    cfg, model, _, _ = build("Rotation", photos, DETCON__ROTATION__ANGLES="(0, 90)")
    cfg.merge_from_list(["DETCON.ROTATION.ANGLES", angles])
    ((fulfilled, key, _, expected),) = model.check_config(cfg)
    assert not fulfilled and key == "DETCON.ROTATION.ANGLES" and "0, 90, 180, 270" in expected
