"""Learned regions: k-means against its definition, carrying to views against the loader's own geometry, and the model's use of both."""

import copy
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.masks.cells import label_map_to_cells
from detcon_d2.modeling import carry_to_view, downsample_label_map, spherical_kmeans
from detcon_d2.views.geometry import ViewAugmentation
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.resize import nearest_indices
from tests.methods.test_detcon import build, tiny_cfg


def blobs(n: int = 3, clusters: int = 4, members: int = 6, channels: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, clusters * members, channels) of random lengths around orthogonal directions, shuffled, and their true clusters."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.stack([torch.randperm(clusters * members, generator=generator) % clusters for _ in range(n)])
    noise = 0.05 * torch.randn(n, clusters * members, channels, generator=generator)
    lengths = 0.1 + 10 * torch.rand(n, clusters * members, 1, generator=generator)
    return (torch.eye(channels)[truth] + noise) * lengths, truth


def draws(n: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed))


def objective(features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """What spherical k-means maximises: the summed length of the clusters' sums, (n,)."""
    members = F.one_hot(ids).transpose(1, 2).float()
    return torch.bmm(members, F.normalize(features, dim=-1)).norm(dim=-1).sum(1)


def test_separate_directions_are_found_whatever_their_lengths():
    features, truth = blobs()
    found = spherical_kmeans(features, 4, draws(3, 4), 10)
    same = truth[:, :, None] == truth[:, None, :]
    assert torch.equal(found[:, :, None] == found[:, None, :], same)


def test_it_is_the_algorithm_written_out():
    features = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(1))
    uniform = draws(2, 5)
    found = spherical_kmeans(features, 5, uniform, 3)
    for image, numbers, ids in zip(features, uniform, found, strict=True):
        points = image / image.norm(dim=1, keepdim=True)
        distance, centers = torch.ones(30, dtype=torch.float64), []
        for u in numbers.double():
            chosen = next(index for index, total in enumerate(accumulate(distance.tolist())) if total > u * distance.sum())
            centers.append(points[chosen])
            distance = torch.stack([((points - center) ** 2).sum(1) for center in centers]).amin(0).double()
        centers = torch.stack(centers)
        for _ in range(3):
            nearest = (points @ centers.T).argmax(1)
            for k in range(5):
                if (nearest == k).any():
                    mean = points[nearest == k].mean(0)
                    centers[k] = mean / mean.norm()
        assert torch.equal((points @ centers.T).argmax(1), ids)


def test_iterations_improve_the_objective():
    features = torch.randn(8, 60, 6, generator=torch.Generator().manual_seed(2))
    values = [objective(features, spherical_kmeans(features, 7, draws(8, 7), iterations)) for iterations in (0, 1, 3, 20)]
    for fewer, more in pairwise(values):
        assert (more >= fewer - 1e-4).all()
    assert (values[-1] > values[0] + 0.1).all()


def test_images_do_not_see_each_other():
    features, uniform = torch.randn(4, 20, 8, generator=torch.Generator().manual_seed(3)), draws(4, 6)
    whole = spherical_kmeans(features, 6, uniform, 10)
    alone = torch.cat([spherical_kmeans(features[i : i + 1], 6, uniform[i : i + 1], 10) for i in range(4)])
    assert torch.equal(whole, alone)


@pytest.mark.parametrize("distinct", [1, 3])
def test_fewer_distinct_cells_than_clusters_leave_clusters_out(distinct):
    features = torch.eye(8)[torch.arange(20) % distinct].expand(2, -1, -1)
    found = spherical_kmeans(features, 6, draws(2, 6), 10)
    for ids in found:
        assert len(ids.unique()) == distinct
        assert all(torch.equal(ids[i], ids[i % distinct]) for i in range(20))


def test_zero_features_are_one_region():
    assert len(spherical_kmeans(torch.zeros(1, 9, 4), 3, draws(1, 3), 5).unique()) == 1


def test_as_many_clusters_as_cells_give_each_its_own():
    features = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(4))
    assert len(spherical_kmeans(features, 12, draws(1, 12), 5).unique()) == 12


def test_half_precision_features_are_clustered_in_float32_under_autocast():
    features, _ = blobs()
    half = features.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = spherical_kmeans(half, 4, draws(3, 4), 10)
    assert torch.equal(found, spherical_kmeans(half.float(), 4, draws(3, 4), 10))


@pytest.mark.parametrize(
    "features, numbers, k, message",
    [((2, 9), (2, 3), 3, "features has shape"), ((2, 9, 4), (2, 2), 3, "at least 3"), ((2, 9, 4), (2, 10), 10, r"expected 1\.\.9")],
)
def test_other_shapes_are_refused(features, numbers, k, message):
    with pytest.raises(ValueError, match=message):
        spherical_kmeans(torch.rand(features), k, torch.rand(numbers), 1)


@pytest.mark.parametrize("cells", [(1, 1), (7, 7), (5, 3), (14, 14)])
def test_carried_regions_equal_the_loaders_crop_of_the_enlarged_map(cells):
    """To the pixel, and therefore also in the feature cells: random images, from one pixel to larger than the view, and random crops."""
    rng = np.random.default_rng(sum(cells))
    geometry = ViewAugmentation(size=37, crop_area=(0.05, 1.0), crop_aspect=(0.5, 2.0), flip_prob=0.5, interpolation="bicubic_tf")
    sizes = [(1, 1), (1, 60), (90, 2), (37, 37), *((int(h), int(w)) for h, w in rng.integers(3, 300, (40, 2)))]
    regions = rng.integers(0, 256, (len(sizes), *cells))
    views = [geometry.sample_view(rng, height, width) for height, width in sizes]
    found = carry_to_view(
        torch.from_numpy(regions),
        torch.from_numpy(np.stack([view.box for view in views])),
        torch.tensor([view.flip for view in views]),
        torch.tensor(sizes),
        (37, 37),
    )
    small = downsample_label_map(found, (3, 3)).numpy()
    for n, (view, (height, width)) in enumerate(zip(views, sizes, strict=True)):
        enlarged = regions[n][np.ix_(nearest_indices(cells[0], height), nearest_indices(cells[1], width))]
        expected = view.apply_segmentation(enlarged)
        np.testing.assert_array_equal(found[n].numpy(), expected)
        np.testing.assert_array_equal(small[n], label_map_to_cells(expected, (3, 3)))


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


def with_label_maps(records: list[dict], cells: np.ndarray) -> list[dict]:
    """The same batch with the regions as label maps, made on the loader's way."""
    out = []
    for record, regions in zip(records, cells, strict=True):
        rows, columns = (nearest_indices(regions.shape[i], record[side]) for i, side in enumerate(("height", "width")))
        enlarged = regions[np.ix_(rows, columns)]
        views = []
        for view in record["views"]:
            x0, y0, x1, y1 = view["box"].int().tolist()
            crop = enlarged[y0:y1, x0:x1]
            label_map = crop[np.ix_(nearest_indices(y1 - y0, 64), nearest_indices(x1 - x0, 64))]
            views.append(view | {"label_map": torch.from_numpy(np.ascontiguousarray(label_map[:, ::-1] if view["flip"] else label_map))})
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
def test_a_step_equals_one_on_label_maps_of_the_same_regions(architecture, amp):
    """Loss, every gradient (autocast keeps no weight without gradient from k-means) and every buffer."""
    model, records = build_kmeans(MODEL__META_ARCHITECTURE=architecture), batch()
    cells = by_definition(model, records, amp)
    assert len(np.unique(cells)) > 1
    plain = build(MODEL__META_ARCHITECTURE=architecture)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(step(model, records, amp), step(plain, with_label_maps(records, cells), amp))
    for (name, p), (_, q) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) and (p.grad is None or torch.equal(p.grad, q.grad)), name
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_learning_regions_leaves_modes_and_statistics_alone():
    model, records = build_kmeans(), batch()
    frozen = model.target["encoder"].stem.conv1.norm.eval()
    before = copy.deepcopy(model.state_dict())
    model.learn_regions(*(torch.stack([record[key] for record in records]) for key in ("full_image", "kmeans_draws")))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not frozen.training and sum(not part.training for part in model.modules()) == 1


def test_regions_of_an_image_do_not_depend_on_its_batch():
    model, records = build_kmeans(), batch(4)
    whole, alone = (
        torch.cat([model.learn_regions(torch.stack([r["full_image"] for r in part]), torch.stack([r["kmeans_draws"] for r in part]))])
        for part in (records, records[2:3])
    )
    assert torch.equal(whole[2:3], alone)


def test_regions_come_from_the_table_where_images_are_not_sent():
    model, plain, records = build_kmeans(), build(), batch()
    plain.load_state_dict(model.state_dict())
    rng = np.random.default_rng(0)
    model.kmeans.table = rng.integers(0, 4, (10, 4, 4), dtype=np.uint8)
    sent = [{key: value for key, value in record.items() if key != "full_image"} | {"index": 9 - record["index"]} for record in records]
    expected = step(plain, with_label_maps(records, model.kmeans.table[[9, 8, 7]].astype(np.int32)))
    assert torch.equal(step(model, sent), expected)
    model.kmeans.table = None
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
    assert model.learn_regions(records[0]["full_image"][None], records[0]["kmeans_draws"][None]).shape == (1, 8, 8)
    assert torch.isfinite(step(model, records))


def test_other_sources_of_regions_have_no_part_in_it():
    assert build().kmeans is None and tiny_cfg().DETCON.MASKS.SOURCE == "grid"
