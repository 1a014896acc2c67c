"""Learned regions in a model: their definition, and the model's use of them."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.masks.cells import label_map_to_cells
from detcon_d2.modeling.kmeans import spherical_kmeans
from detcon_d2.views.geometry import ViewAugmentation
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.resize import nearest_indices
from tests.methods.test_detcon import build


def learn(model: torch.nn.Module, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    return model.learned_regions.learn(model, images, draws)


def build_kmeans(**overrides: object) -> torch.nn.Module:
    values = {"DETCON__MASKS__SOURCE": "kmeans", "DETCON__MASKS__KMEANS__K": 4, "DETCON__MASKS__KMEANS__SIZE": 128}
    return build(**values | overrides)


def batch(count: int = 3, size: int = 64, whole: int = 128, samples: int = 4, k: int = 4) -> list[dict]:
    """As the mapper makes them, from images of several sizes."""
    geometry = ViewAugmentation(size=size, crop_area=(0.2, 1.0), crop_aspect=(0.75, 1.33), flip_prob=0.5, interpolation="bicubic_tf")
    records = []
    for n in range(count):
        rng = position_rng(0, n, Stream.GEOMETRY)
        height, width = 80 + 7 * n, 120 - 5 * (n % 8)
        views = []
        for _ in range(2):
            view = geometry.sample_view(rng, height, width)
            pixels = {"image": torch.from_numpy(rng.random((3, size, size), dtype=np.float32))}
            uniform = torch.from_numpy(rng.random(samples, dtype=np.float32))
            views.append(pixels | {"box": torch.from_numpy(view.box), "flip": view.flip, "draws": uniform})
        # Smooth, so that there is something to find.
        full = F.interpolate(torch.from_numpy(rng.random((1, 3, 4, 4), dtype=np.float32)), size=(whole, whole), mode="bilinear")[0]
        learned = {"full_image": (full * 255).byte(), "kmeans_draws": torch.from_numpy(rng.random(k, dtype=np.float32))}
        records.append({"views": views, "height": height, "width": width, "index": n, "file_name": f"{n}.png"} | learned)
    return records


def with_cells(records: list[dict], cells: np.ndarray) -> list[dict]:
    """The same batch with the regions as cells, made in the loader's way."""
    out = []
    for record, regions in zip(records, cells, strict=True):
        rows, columns = (nearest_indices(regions.shape[i], record[side]) for i, side in enumerate(("height", "width")))
        enlarged = regions[np.ix_(rows, columns)]
        views = []
        for view in record["views"]:
            x0, y0, x1, y1 = view["box"].int().tolist()
            crop = enlarged[y0:y1, x0:x1]
            label_map = crop[np.ix_(nearest_indices(y1 - y0, 64), nearest_indices(x1 - x0, 64))]
            label_map = np.ascontiguousarray(label_map[:, ::-1] if view["flip"] else label_map)
            views.append(view | {"cells": torch.from_numpy(label_map_to_cells(label_map, (2, 2)))})
        out.append({key: value for key, value in record.items() if "full" not in key} | {"views": views})
    return out


def step(model: torch.nn.Module, records: list[dict], amp: bool = False) -> torch.Tensor:
    with d2.EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        loss = model(records)["loss_detcon"]
    loss.backward()
    return loss.detach()


def by_definition(model: torch.nn.Module, records: list[dict], amp: bool = False) -> np.ndarray:
    """Regions from the features of a copy of the encoder in evaluation mode."""
    encoder = copy.deepcopy(model.target["encoder"] if hasattr(model, "target") else model.encoder).eval()
    images = torch.stack([record["full_image"] for record in records])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        features = encoder(((images.float() - model.pixel_mean) / model.pixel_std).contiguous(memory_format=model.memory_format))["res5"]
    uniform = torch.stack([record["kmeans_draws"] for record in records])
    return spherical_kmeans(features.flatten(2).transpose(1, 2), 4, uniform, 10).view(len(images), 4, 4).numpy()


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_a_step_equals_one_on_cells_of_the_same_regions(architecture, amp):
    """Loss, every gradient (autocast keeps no weight without gradient from k-means) and every buffer."""
    model, records = build_kmeans(MODEL__META_ARCHITECTURE=architecture), batch()
    cells = by_definition(model, records, amp)
    assert len(np.unique(cells)) > 1
    plain = build(MODEL__META_ARCHITECTURE=architecture)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(step(model, records, amp), step(plain, with_cells(records, cells), amp))
    for (name, p), (_, q) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) and (p.grad is None or torch.equal(p.grad, q.grad)), name
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_learning_regions_leaves_modes_and_statistics_alone():
    model, records = build_kmeans(), batch()
    frozen = model.target["encoder"].stem.conv1.norm.eval()
    before = copy.deepcopy(model.state_dict())
    learn(model, *(torch.stack([record[key] for record in records]) for key in ("full_image", "kmeans_draws")))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not frozen.training and sum(not part.training for part in model.modules()) == 1


def test_regions_come_from_the_table_where_images_are_not_sent():
    model, plain, records = build_kmeans(DETCON__MASKS__KMEANS__REFRESH_EPOCHS=1), build(), batch()
    plain.load_state_dict(model.state_dict())
    rng = np.random.default_rng(0)
    model.learned_regions.table = rng.integers(0, 4, (10, 4, 4), dtype=np.uint8)
    sent = [{key: value for key, value in record.items() if key != "full_image"} | {"index": 9 - record["index"]} for record in records]
    expected = step(plain, with_cells(records, model.learned_regions.table[[9, 8, 7]].astype(np.int32)))
    assert torch.equal(step(model, sent), expected)
    model.learned_regions.table = None
    with pytest.raises(ValueError, match="REFRESH_EPOCHS asks for regions of all images"):
        step(model, sent)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"KMEANS__K": 17}, r"KMEANS.K is 17, but 'res5' of a whole image of 128 pixels has 4 x 4 = 16 cells"),
        ({"KMEANS__K_END": 20}, "KMEANS.K_END is 20, but 'res5'"),
        ({"KMEANS__K": 0}, r"KMEANS.K is 0; expected 1..256"),
        ({"KMEANS__ITERATIONS": 0}, "KMEANS.ITERATIONS is 0; expected at least 1"),
        ({"KMEANS__REFRESH_EPOCHS": -1}, "KMEANS.REFRESH_EPOCHS is -1"),
        ({"KMEANS__IN_FEATURE": "res4"}, r"IN_FEATURE is 'res4', but the backbone gives \['res5'\]. Add it to MODEL.RESNETS.OUT_FEATURES"),
    ],
)
def test_impossible_settings_are_refused_at_the_start(overrides, message):
    with pytest.raises(ValueError, match=message):
        build_kmeans(**{f"DETCON__MASKS__{key}": value for key, value in overrides.items()})


def test_another_output_gives_more_cells():
    model = build_kmeans(DETCON__MASKS__KMEANS__IN_FEATURE="res4", MODEL__RESNETS__OUT_FEATURES='["res4","res5"]')
    records = batch()
    assert learn(model, records[0]["full_image"][None], records[0]["kmeans_draws"][None]).shape == (1, 8, 8)
    assert torch.isfinite(step(model, records))
