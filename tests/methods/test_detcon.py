"""DetConS and DetConB against compositions of their parts written out in the test."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from detcon_d2 import add_detcon_config, d2
from detcon_d2.losses.detcon import detcon_loss
from detcon_d2.modeling.regions import ids_from_draws, pool_masked_features
from tests.conftest import REPO, TINY


def tiny_cfg(**overrides: object) -> "d2.CfgNode":
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.merge_from_file(str(REPO / "configs" / "Base-DetCon.yaml"))
    values = TINY | {"MODEL.RESNETS.NORM": "BN", "DETCON.HEAD_NORM": "BN", "DETCON.LOG_PERIOD": 1}
    values |= {key.replace("__", "."): value for key, value in overrides.items()}
    cfg.merge_from_list([str(item) for pair in values.items() for item in pair])
    return cfg


def build(seed: int = 0, **overrides: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = d2.build_model(tiny_cfg(**overrides))
    # Zero gammas would make every block a shortcut: draw them, so that the tests see the whole network.
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def batch(count: int = 3, size: int = 64, samples: int = 4, labels: bool = False, regions: int = 4, seed: int = 0) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)

    def view() -> dict:
        cells = torch.randint(0, regions, (2, 2), generator=generator, dtype=torch.int32)
        return {"image": torch.rand(3, size, size, generator=generator), "cells": cells, "draws": torch.rand(samples, generator=generator)}

    records = [{"views": [view(), view()], "file_name": f"{i}.png", "image_id": i} for i in range(count)]
    return [record | {"label": i % 2} for i, record in enumerate(records)] if labels else records


def prepared(model: torch.nn.Module, records: list[dict], index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    views = [record["views"][index] for record in records]
    images = (torch.stack([view["image"] for view in views]) * 255 - model.pixel_mean) / model.pixel_std
    cells = torch.stack([view["cells"] for view in views])
    return images, cells, ids_from_draws(cells, torch.stack([view["draws"] for view in views]))


def assert_near(actual: torch.Tensor, expected: torch.Tensor, name: str = "") -> None:
    """Equal norm-wise: memory formats sum in another order."""
    assert (actual - expected).norm() <= 1e-3 * expected.norm() + 1e-6, name


def project(encoder, projector, images, cells, ids):
    return projector(pool_masked_features(encoder(images)["res5"], cells, ids))


def test_detcon_b_loss_is_the_composition_of_its_parts():
    model, records = build(), batch()
    reference = copy.deepcopy(model)
    with d2.EventStorage():
        loss = model(records)["loss_detcon"]
    view1, view2 = prepared(reference, records, 0), prepared(reference, records, 1)
    online = [reference.predictor(project(reference.encoder, reference.projector, *view)) for view in (view1, view2)]
    target = [project(reference.target["encoder"], reference.target["projector"], *view).detach() for view in (view1, view2)]
    torch.testing.assert_close(loss, detcon_loss(*online, *target, view1[2], view2[2]))


def test_detcon_s_loss_is_the_composition_of_its_parts_with_gradient_to_both_sides():
    model, records = build(MODEL__META_ARCHITECTURE="DetConS"), batch()
    reference = copy.deepcopy(model)
    with d2.EventStorage():
        loss = model(records)["loss_detcon"]
    loss.backward()
    view1, view2 = prepared(reference, records, 0), prepared(reference, records, 1)
    z1, z2 = (project(reference.encoder, reference.projector, *view) for view in (view1, view2))
    expected = detcon_loss(z1, z2, z1, z2, view1[2], view2[2])
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for (name, p), (_, q) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert_near(p.grad, q.grad, name)


def test_target_gets_no_gradient_and_moves_by_its_own_batch_statistics_and_ema_only():
    model, records = build(), batch()
    before = copy.deepcopy(model.target.state_dict())
    with d2.EventStorage():
        model(records)["loss_detcon"].backward()
    assert all(p.grad is None for p in model.target.parameters())
    after = model.target.state_dict()
    for key in before:
        changed = not torch.equal(before[key], after[key])
        assert changed == key.endswith(("running_mean", "running_var", "num_batches_tracked")), key
    assert int(after["encoder.stem.conv1.norm.num_batches_tracked"]) == 2, "one forward pass a view"

    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(1.0)
    model.update_target(0.9)
    torch.testing.assert_close(
        model.target["encoder"].stem.conv1.weight, before["encoder.stem.conv1.weight"] * 0.9 + model.encoder.stem.conv1.weight * 0.1
    )


def test_views_are_forward_passes_of_their_own():
    """Concatenated views would share BatchNorm statistics: another view 2 must leave view 1's running-mean step alone."""
    model, first, second = build(MODEL__META_ARCHITECTURE="DetConS"), batch(seed=0), batch(seed=1)
    mixed = [a | {"views": [a["views"][0], b["views"][1]]} for a, b in zip(first, second, strict=True)]
    means = []
    for records in (first, mixed):
        probe = copy.deepcopy(model)
        seen = []
        hook = probe.encoder.stem.conv1.norm.register_forward_hook(lambda m, i, o, seen=seen: seen.append(m.running_mean.clone()))
        with d2.EventStorage():
            probe(records)
        hook.remove()
        assert len(seen) == 2
        means.append(seen)
    torch.testing.assert_close(means[0][0], means[1][0], rtol=0, atol=0)
    assert not torch.equal(means[0][1], means[1][1])


def test_uint8_views_equal_float_views_of_the_same_values():
    model, records = build(), batch()
    bytes_, floats = copy.deepcopy(records), copy.deepcopy(records)
    for record_b, record_f in zip(bytes_, floats, strict=True):
        for view_b, view_f in zip(record_b["views"], record_f["views"], strict=True):
            view_b["image"] = (view_b["image"] * 255).to(torch.uint8)
            view_f["image"] = view_b["image"].float() / 255
    with d2.EventStorage():
        a = copy.deepcopy(model)(bytes_)["loss_detcon"]
        b = copy.deepcopy(model)(floats)["loss_detcon"]
    torch.testing.assert_close(a, b)


def test_probe_trains_its_classifier_and_not_the_encoder():
    model = build(DETCON__PROBE__NUM_CLASSES=2)
    with d2.EventStorage() as storage:
        losses = model(batch(labels=True))
        assert 0 <= storage.latest()["probe/accuracy"][0] <= 1
    losses["loss_probe"].backward()
    assert model.probe.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.encoder.parameters())
    with d2.EventStorage(), pytest.raises(ValueError, match="needs a 'label' in every record"):
        model(batch(labels=False))


@pytest.mark.parametrize("regions", ["one", "none"])
@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_one_region_and_no_region_give_finite_losses_and_gradients(regions, architecture):
    model, records = build(MODEL__META_ARCHITECTURE=architecture), batch(count=2)
    for record in records:
        for view in record["views"]:
            view["cells"].fill_(0 if regions == "one" else 65535)
    with d2.EventStorage():
        loss = model(records)["loss_detcon"]
    loss.backward()
    assert torch.isfinite(loss) and (loss > 0 if regions == "one" else loss == 0)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_inference_gives_detectron2_style_features_without_padding():
    model = build().eval()
    images = [{"image": torch.randint(0, 256, (3, h, w), dtype=torch.uint8)} for h, w in ((64, 96), (70, 33))]
    outputs = model(images)
    assert [tuple(o["features"].shape[1:]) for o in outputs] == [(2, 3), (3, 2)]
    alone = model(images[:1])[0]["features"]
    normalised = (images[0]["image"].float() - model.pixel_mean) / model.pixel_std
    assert_near(alone, model.encoder(normalised[None])["res5"][0])


def test_last_gamma_of_every_block_starts_at_zero():
    torch.manual_seed(0)
    model = d2.build_model(tiny_cfg())
    blocks = [m for m in model.encoder.modules() if isinstance(m, d2.BottleneckBlock)]
    assert len(blocks) == 16
    assert all(not block.conv3.norm.weight.any() and block.conv1.norm.weight.all() for block in blocks)
    target = d2.build_model(tiny_cfg(DETCON__EMA__INIT="random")).target["encoder"]
    assert all(not m.conv3.norm.weight.any() for m in target.modules() if isinstance(m, d2.BottleneckBlock))


def test_ema_init_copy_and_random():
    torch.manual_seed(0)
    copied, random = d2.build_model(tiny_cfg()), d2.build_model(tiny_cfg(DETCON__EMA__INIT="random"))
    assert torch.equal(copied.encoder.stem.conv1.weight, copied.target["encoder"].stem.conv1.weight)
    assert not torch.equal(random.encoder.stem.conv1.weight, random.target["encoder"].stem.conv1.weight)
    with pytest.raises(ValueError, match=r"DETCON.EMA.INIT is 'zeros'; expected 'copy' or 'random'"):
        d2.build_model(tiny_cfg(DETCON__EMA__INIT="zeros"))


def test_bad_in_feature_is_named():
    with pytest.raises(ValueError, match=r"DETCON.IN_FEATURE is 'res4', but the backbone gives \['res5'\]"):
        d2.build_model(tiny_cfg(DETCON__IN_FEATURE="res4"))


def test_head_is_the_stated_perceptron():
    model = build()
    x = torch.randn(3, 4, 256 // 2)
    head = model.projector
    rows = F.linear(x.reshape(12, -1), head.fc1.weight, head.fc1.bias)
    rows = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt() * head.norm.weight + head.norm.bias
    torch.testing.assert_close(head(x), F.linear(rows.relu(), head.fc2.weight).reshape(3, 4, -1))
    assert head.fc2.bias is None and head.fc1.bias is not None


@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_view_1_only_makes_one_view_and_one_forward_pass_of_each_encoder(architecture):
    options = {"MODEL__META_ARCHITECTURE": architecture, "DETCON__TWO_VIEWS": False, "DETCON__SAME_VIEW": "view1_only"}
    model, records = build(**options), batch()
    reference = copy.deepcopy(model)
    samples = model.sample_maker(tiny_cfg(**options))
    image, label_map = np.zeros((70, 80, 3), np.uint8), np.zeros((70, 80), np.uint16)
    (view,) = samples(image, label_map, 3)["views"]
    both = build(MODEL__META_ARCHITECTURE=architecture).sample_maker(tiny_cfg())(image, label_map, 3)["views"]
    assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(both[0][key])) for key, value in view.items())

    for record in records:
        del record["views"][1]
    passes = []
    for module in (model.encoder, *(target for target, online in model.target_pairs() if online is model.encoder)):
        module.register_forward_hook(lambda module, args, output: passes.append(module))
    with d2.EventStorage() as storage:
        loss = model(records)["loss_detcon"]
    assert len(passes) == len(set(passes)) == (2 if architecture == "DetConB" else 1)
    assert {"learning/projection_std", "learning/regions_per_view"} <= storage.latest().keys()
    view1 = prepared(reference, records, 0)
    projection = project(reference.encoder, reference.projector, *view1)
    online, target = projection, projection
    if architecture == "DetConB":
        online = reference.predictor(projection)
        target = project(reference.target["encoder"], reference.target["projector"], *view1).detach()
    expected = detcon_loss(online, online, target, target, view1[2], view1[2], two_views=False) / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith(("encoder", "projector")))
