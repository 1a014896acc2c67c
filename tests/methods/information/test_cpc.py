"""CPC's context sees nothing of what is predicted, patches are encoded one by one, and directions turn the grid."""

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.methods.information.cpc import RowContext, grid_side
from tests.methods.test_contract import batch_of


def test_the_context_of_a_row_depends_on_no_row_below():
    context = RowContext(3, 4, 5).double()
    x = torch.randn(1, 3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    for row in range(7):
        (gradient,) = torch.autograd.grad(context(x)[:, :, row].sum(), x)
        assert not gradient[:, :, row + 1 :].any() and gradient[:, :, row].any()
        assert row == 0 or gradient[:, :, :row].any()


def test_patches_are_those_of_the_view_at_their_places(photos):
    model, batch = batch_of("CPC", photos, 2)
    with d2.EventStorage():
        (view,) = model.images_of(batch)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    grid = model.encode_patches(view)
    patch, half = model.keys.PATCH, model.keys.PATCH // 2
    side = grid_side(view.shape[-1], patch)
    assert grid.shape[2:] == (side, side) and len(seen) == side**2
    for place, patches in enumerate(seen):
        y, x = (half * number for number in divmod(place, side))
        assert torch.equal(patches, view[:, :, y : y + patch, x : x + patch])


def test_another_patch_of_an_image_does_not_change_a_patchs_features(photos):
    """With shared statistics of BatchNorm it would."""
    model, batch = batch_of("CPC", photos, 4)
    with d2.EventStorage(), torch.no_grad():
        (view,) = model.images_of(batch)
        before = model.encode_patches(view)
        half = model.keys.PATCH // 2
        changed = view.clone()
        changed[0, :, :half, :half] += 5  # only the first patch has these pixels
        after = model.encode_patches(changed)
        same = torch.ones_like(before, dtype=torch.bool)
        same[:, :, 0, 0] = False
        assert torch.equal(before[same], after[same]) and not torch.equal(before, after)
        # All patches of all images as one batch share statistics: then every patch changes.
        patches = [x.unfold(2, 2 * half, half).unfold(3, 2 * half, half).permute(0, 2, 3, 1, 4, 5).flatten(0, 2) for x in (view, changed)]
        shared = [model.encoder(x)[model.in_feature].mean((2, 3)) for x in patches]
        assert (shared[0] != shared[1]).any(1).all()


def test_each_direction_reads_the_turned_grid(photos):
    model, batch = batch_of("CPC", photos, 2, DETCON__CPC__DIRECTIONS='("down", "up")')
    with d2.EventStorage():
        found = model.embed(batch)
    down, up = found["targets"].unbind(1)
    torch.testing.assert_close(down.flip(1, 2), up)
    assert found["predictions"].shape[1] == 2 and model.criterion(found)["loss_cpc"].isfinite()


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("PATCH", 33, "DETCON.CPC.PATCH"),
        ("PATCH", 64, "DETCON.CPC.PATCH and FIRST"),
        ("FIRST", 3, "DETCON.CPC.PATCH and FIRST"),
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
