"""What only Exemplar and SupCon can get wrong."""

import pytest
import torch

from detcon_d2 import d2
from tests.methods.test_contract import batch_of, build


def test_exemplars_views_are_different_crops_of_one_image(photos):
    _, _, samples, _ = build("Exemplar", photos, DETCON__EXEMPLAR__VIEWS=5)
    boxes = [tuple(transform.box) for transform in samples.sample_geometry(3, 90, 90)]
    assert len(boxes) == len(set(boxes)) == 5
    colors = samples.sample_photometric(3)
    assert len(colors) == 5 and len({str(one) for one in colors}) > 1


def test_exemplars_accuracy_is_one_where_views_agree_and_chance_is_counted(photos):
    model, _ = batch_of("Exemplar", photos, 4)
    z = torch.eye(4)[:, None].repeat(1, 3, 1)
    found = model.metrics({"z": z})
    assert found["accuracy"] == 1 and found["chance"] == pytest.approx(2 / 11) and found["active_triplets"] == 0
    assert model.metrics({"z": torch.ones(4, 3, 4)})["active_triplets"] == 1


def test_sup_con_needs_labels_and_says_so(photos):
    with pytest.raises(ValueError, match="SupCon found no class labels"):
        build("SupCon", photos, DETCON__PROBE__ENABLED=False)


def test_sup_con_counts_neighbours_of_the_same_class(photos):
    model, batch = batch_of("SupCon", photos, 4)
    with d2.EventStorage():
        labels = model.embed(batch)["labels"]
    assert labels.tolist() == [sample["label"] for sample in batch]
    z = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    found = model.metrics({"z1": z, "z2": z, "labels": torch.tensor([0, 0, 1, 1])})
    assert found["accuracy"] == 1 and found["chance"] == pytest.approx(1 / 3)
