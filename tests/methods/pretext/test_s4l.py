"""S4L uses the labels of the chosen images alone, and is Rotation plus a classifier."""

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.data import build_pretraining_loader
from tests.methods.test_contract import HELD, batch_of, build


def test_partners_are_the_labelled_images_alone_and_bring_their_label(photos):
    cfg, _, samples, records = build("S4L", photos, DETCON__S4L__LABEL_FRACTION=0.25)
    labelled = samples.partners(records)
    assert len(labelled) == round(len(records) / 4)
    by_fraction = [set(build("S4L", photos, DETCON__S4L__LABEL_FRACTION=one)[2].partners(records).tolist()) for one in (0.1, 0.25, 1.0)]
    assert by_fraction[0] < by_fraction[1] < by_fraction[2] == set(range(len(records)))
    # Labels of all other images are wrong: they must play no part.
    marked = [record | {"label": record["label"] if index in labelled else 99} for index, record in enumerate(records)]
    loader = iter(build_pretraining_loader(cfg, marked, samples))
    seen = [sample["partner_label"] for _ in range(6) for sample in next(loader)]
    assert set(seen) == {records[index]["label"] for index in labelled}


def test_both_images_have_the_same_angles_and_their_own_pixels(photos):
    _, _, samples, _ = build("S4L", photos)
    rng = np.random.default_rng(0)
    image, partner = (rng.integers(0, 256, (80, 80, 3)).astype(np.uint8) for _ in range(2))
    first, second = samples(image, None, 3, partner)["views"]
    again = samples(image, None, 3, image)["views"]
    assert torch.equal(first["image"], again[0]["image"]) and torch.equal(again[0]["image"], again[1]["image"])
    assert not torch.equal(second["image"], first["image"])


def test_the_loss_is_rotations_over_both_images_and_the_classes_of_every_copy(photos):
    model, batch = batch_of("S4L", photos, 4, **HELD | {"DETCON__S4L__WEIGHT": 0.5})
    with d2.EventStorage():
        found = model.embed(batch)
        losses = model.criterion(found)
    both = torch.nn.functional.cross_entropy(found["logits"].flatten(0, 1), found["labels"].flatten())
    torch.testing.assert_close(losses["loss_rotation"], 0.5 * both)
    copies = [
        torch.nn.functional.cross_entropy(found["class_logits"][:, copy], found["classes"])
        for copy in range(found["class_logits"].shape[1])
    ]
    torch.testing.assert_close(losses["loss_classes"], sum(copies) / len(copies))
    assert found["classes"].tolist() == [sample["partner_label"] for sample in batch]
    right = found | {"class_logits": torch.nn.functional.one_hot(found["classes"], 2)[:, None].float()}
    assert model.metrics(right)["class_accuracy"] == 1


def test_it_needs_labels_and_says_so(photos):
    with pytest.raises(ValueError, match="S4L found no class labels"):
        build("S4L", photos, DETCON__PROBE__ENABLED=False)
