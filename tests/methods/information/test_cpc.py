"""CPC's context sees nothing of what is predicted, patches are encoded one by one, and directions turn the grid."""

import copy

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.methods.information.cpc import RowContext
from tests.methods.test_contract import batch_of, build, gradients

PLAIN = {f"DETCON__AUG__{name}_PROB": "(0.0, 0.0)" for name in ("JITTER", "GRAY", "BLUR", "SOLARIZE")}
V2 = {
    "DETCON__CPC__STEP": 8,  # 5 x 5 patches of 32 pixels
    "DETCON__CPC__PATCH_AUG": True,
    "DETCON__CPC__DROP_PROB": 1.0,
    "DETCON__CPC__DIRECTIONS": '("down", "right", "up", "left")',
}


def test_the_context_of_a_row_depends_on_no_row_below():
    context = RowContext(3, 4, 5).double()
    x = torch.randn(1, 3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    for row in range(7):
        (gradient,) = torch.autograd.grad(context(x)[:, :, row].sum(), x)
        assert not gradient[:, :, row + 1 :].any() and gradient[:, :, row].any()
        assert row == 0 or gradient[:, :, :row].any()


@pytest.mark.parametrize(("step", "side"), [(0, 3), (8, 5)])
def test_patches_are_those_of_the_view_at_their_places(photos, step, side):
    model, batch = batch_of("CPC", photos, 2, DETCON__CPC__STEP=step)
    with d2.EventStorage():
        (view,) = model.images_of(batch)
        found = model.patches_of(batch)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    grid = model.encode_patches(found)
    assert grid.shape[2:] == (side, side) and len(seen) == side**2
    for place, patches in enumerate(seen):
        y, x = ((step or 16) * number for number in divmod(place, side))
        assert torch.equal(patches, view[:, :, y : y + 32, x : x + 32])


def test_another_patch_of_an_image_does_not_change_a_patchs_features(photos):
    """With shared statistics of BatchNorm it would."""
    model, batch = batch_of("CPC", photos, 4)
    with d2.EventStorage(), torch.no_grad():
        patches = model.patches_of(batch)
        before = model.encode_patches(patches)
        changed = patches.clone()
        changed[0, 0] += torch.randn(changed[0, 0].shape, generator=torch.Generator().manual_seed(0))
        after = model.encode_patches(changed)
        same = torch.ones_like(before, dtype=torch.bool)
        same[:, :, 0, 0] = False
        assert torch.equal(before[same], after[same]) and not torch.equal(before, after)
        # All patches of all images as one batch share statistics: then every patch changes.
        shared = [model.encoder(x.flatten(0, 1))[model.in_feature].mean((2, 3)) for x in (patches, changed)]
        assert (shared[0] != shared[1]).any(1).all()


def test_each_direction_reads_the_turned_grid(photos):
    model, batch = batch_of("CPC", photos, 2, DETCON__CPC__DIRECTIONS='("down", "up")')
    with d2.EventStorage():
        found = model.embed(batch)
    down, up = found["targets"].unbind(1)
    torch.testing.assert_close(down.flip(1, 2), up)
    assert found["predictions"].shape[1] == 2 and model.criterion(found)["loss_cpc"].isfinite()


def test_v2_trains_every_parameter_in_all_directions(photos):
    model, batch = batch_of("CPC", photos, 4, DETCON__PROBE__ENABLED=False, **V2)
    with d2.EventStorage():
        found = model.embed(batch)
        assert found["predictions"].shape == (4, 4, 3, 5, 5, 8) and found["targets"].shape == (4, 4, 5, 5, 8)
        model.criterion(found)["loss_cpc"].backward()
    assert gradients(model).keys() == dict(model.named_parameters()).keys() and all(g.any() for g in gradients(model).values())


def test_the_model_keeps_one_channel_of_each_patch_and_no_other_has_a_say(photos):
    model, batch = batch_of("CPC", photos, 2, **PLAIN | V2)
    changed = copy.deepcopy(batch)
    for sample in changed:
        for view, kept in zip(sample["views"], sample["channels"], strict=True):
            assert kept.sum() == 1
            view["image"][~kept] = 0.5
    with d2.EventStorage():
        patches = model.patches_of(batch)
        assert torch.equal(patches, model.patches_of(changed)) and patches.flatten(3).any(3).sum() == 25 * 2
        all_channels = [sample | {"channels": torch.ones(25, 3, dtype=torch.bool)} for sample in batch]
        assert torch.equal(model.patches_of(all_channels), torch.stack(model.images_of(batch)))


def test_without_its_augmentation_v2_is_v1(photos):
    """Where pixels of the view are pixels of the image, patches are the same, whether the loader or the model cuts them."""
    whole = {"DETCON__VIEWS__CROP_AREA": "(1.0, 1.0)", "DETCON__VIEWS__CROP_ASPECT": "(1.0, 1.0)", "DETCON__VIEWS__FLIP_PROB": 0.0}
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    found = []
    for augmented in (False, True):
        _, model, samples, _ = build("CPC", photos, DETCON__CPC__PATCH_AUG=augmented, DETCON__CPC__STEP=8, **whole | PLAIN)
        with d2.EventStorage():
            found.append(model.patches_of([samples(image, None, position) for position in range(2)]))
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("PATCH", 33, "DETCON.CPC.PATCH"),
        ("PATCH", 64, "DETCON.CPC.PATCH, STEP and FIRST"),
        ("FIRST", 3, "DETCON.CPC.PATCH, STEP and FIRST"),
        ("STEP", 12, "DETCON.CPC.PATCH, STEP and FIRST"),
        ("STEP", -8, "DETCON.CPC.PATCH"),
        ("DROP_PROB", 0.5, "DETCON.CPC.DROP_PROB"),
        ("DIRECTIONS", ("down", "down"), "DETCON.CPC.DIRECTIONS"),
        ("DIM", 0, "DETCON.CPC.DIM"),
    ],
)
def test_settings_that_fit_no_grid_are_refused(key, value, wrong, photos):
    model, _ = batch_of("CPC", photos, 2)
    cfg = d2.get_cfg()
    from detcon_d2 import add_detcon_config

    add_detcon_config(cfg)
    cfg.DETCON.VIEWS.SIZE, cfg.DETCON.CPC.PATCH = 64, 32
    assert all(fulfilled for fulfilled, *_ in model.check_config(cfg))
    cfg.DETCON.CPC[key] = value
    assert [name for fulfilled, name, *_ in model.check_config(cfg) if not fulfilled] == [wrong]
