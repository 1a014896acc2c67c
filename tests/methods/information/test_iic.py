"""IIC clusters places: views of one place agree whatever the crop and the flip."""

import math

import pytest
import torch

from tests.methods.test_contract import batch_of


def embeddings_of(model: torch.nn.Module, ids1: torch.Tensor, ids2: torch.Tensor, flip: bool) -> dict[str, torch.Tensor]:
    """Certain clusters, the same for all heads, of two views of the same crop, of which the second may be flipped."""
    box = torch.tensor([[0.0, 0, 64, 64]]).repeat(len(ids1), 1)
    logits = []
    for ids in (ids1, ids2):
        parts = [20 * torch.nn.functional.one_hot(ids % size, size).movedim(-1, 1).float() for size in model.sizes]
        logits.append(torch.cat(parts, 1))
    boxes = {"box1": box, "box2": box[:, [2, 1, 0, 3]] if flip else box}
    return {"logits1": logits[0], "logits2": logits[1], "features": torch.rand(2, 4)} | boxes


def test_places_are_compared_and_not_cells(photos):
    model, _ = batch_of("IIC", photos, 2, DETCON__IIC__SHIFT=0)
    ids = torch.randint(0, 1000, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    right = embeddings_of(model, ids, ids.flip(2), flip=True)
    wrong = embeddings_of(model, ids, ids, flip=True)
    assert model.criterion(right)["loss_iic"] < model.criterion(wrong)["loss_iic"] - 0.2
    assert model.metrics(right)["information"] > 0.8


def test_whole_views_are_clustered_without_boxes(photos):
    model, _ = batch_of("IIC", photos, 4, DETCON__IIC__DENSE=False)
    ids = torch.arange(4).view(4, 1, 1)
    found = embeddings_of(model, ids, ids, flip=True)
    # Four equally frequent clusters, also of heads with more of them.
    expected = sum(math.log(4) / math.log(size) for size in model.sizes) / len(model.sizes)
    assert model.metrics(found)["information"] == pytest.approx(expected, abs=1e-3)
    assert model.metrics(found | {"logits2": 0 * found["logits2"]})["information"] < 0.05


def test_one_cluster_for_everything_is_seen_as_a_collapse(photos):
    model, _ = batch_of("IIC", photos, 2)
    ids = torch.zeros(2, 4, 4, dtype=torch.int64)
    found = model.metrics(embeddings_of(model, ids, ids, flip=False))
    assert found["information"] < 0.01 and found["clusters_used"] == pytest.approx(sum(1 / size for size in model.sizes) / len(model.sizes))
