"""Tiles have the places that their order states, share no pixel, and colours lose what the projection is for."""

import itertools

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.engine import load_config
from detcon_d2.methods.tiles.patches import standardise
from detcon_d2.views.geometry import ViewAugmentation
from detcon_d2.views.patches import PROJECTION, OverlappingPatches, Patches, PatchGrid, grid_side
from detcon_d2.views.photometric import PhotometricAugmentation
from tests.conftest import tiny_opts
from tests.engine.runs import BASE


def grid(**changes: object) -> PatchGrid:
    return PatchGrid(**{"resize": 292, "crop": 255, "size": 64, "min_gap": 0, "flip_prob": 0.5, "interpolation": "bilinear_pil"} | changes)


def boxes(found: list) -> np.ndarray:
    return np.array([tile.box for tile in found])


@pytest.mark.parametrize(("height", "width"), [(292, 292), (300, 480), (1200, 900), (72, 96), (9, 40)])
@pytest.mark.parametrize("gap", [0, 16])
def test_tiles_are_in_the_image_in_the_order_of_their_places_and_apart(height, width, gap):
    rng = np.random.default_rng(0)
    for _ in range(100):
        tiles = grid(min_gap=gap).sample(rng, height, width)
        found = boxes(tiles)
        assert (found[:, :2] >= 0).all() and (found[:, 2:] <= (width, height)).all()
        assert len({(tile.width, tile.height, tile.flip, tile.size) for tile in tiles}) == 1 and tiles[0].width == tiles[0].height
        if tiles[0].flip:  # as the mirrored image shows them
            found[:, [0, 2]] = width - found[:, [2, 0]]
        least = gap * min(height, width) / 292 - 1
        for (i, a), (j, b) in itertools.combinations(enumerate(found), 2):
            gaps = np.maximum(b[:2] - a[2:], a[:2] - b[2:])
            assert gaps.max() >= max(least, 0)
            place = np.sign([j % 3 - i % 3, j // 3 - i // 3])
            assert (np.sign(b[:2] - a[:2])[place != 0] == place[place != 0]).all()


def test_a_tile_shows_its_box_without_its_surroundings():
    y, x = np.mgrid[:292, :292]
    image = np.stack([x % 256, y % 256, 0 * x], axis=2).astype(np.uint8)
    for tile in grid(flip_prob=0.0).sample(np.random.default_rng(1), 292, 292):
        seen = np.rint(tile.apply_image(image) * 255).astype(int)
        assert np.array_equal(seen[:, :, 0], x[tile.y0 : tile.y0 + 64, tile.x0 : tile.x0 + 64] % 256)
        assert np.array_equal(seen[:, :, 1], y[tile.y0 : tile.y0 + 64, tile.x0 : tile.x0 + 64] % 256)


def test_offsets_within_a_cell_are_uniform_from_0_to_21_at_the_published_sizes():
    rng = np.random.default_rng(0)
    square = grid(crop=291, resize=291, size=76, flip_prob=0.0)
    found = np.concatenate([boxes(square.sample(rng, 291, 291))[:, 0] % 97 for _ in range(200)])
    assert set(found) == set(range(22))
    assert grid().crop // 3 - 64 == 21


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"crop": 300}, "CROP is 300"), ({"size": 86}, "TILE is 86"), ({"min_gap": 22}, "TILE is 64"), ({"min_gap": -1}, "MIN_GAP")],
)
def test_a_grid_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        grid(**changes)


def config(photos, **overrides) -> "d2.CfgNode":
    return load_config(BASE, tiny_opts(photos, photos.parent / "unused", **overrides))


def test_all_tiles_of_an_image_have_the_same_colours(photos):
    samples = Patches.from_config(config(photos), 32)
    assert samples.geometry[0].interpolation == "bicubic_tf"
    for position in range(8):
        assert len(set(samples.sample_photometric(position))) == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DETCON__PATCHES__TILE", 16, "DETCON.PATCHES.TILE is 16; expected at least 32 pixels"),
        ("DETCON__PATCHES__COLOR", "red", "DETCON.PATCHES.COLOR is 'red'"),
        ("DETCON__PATCHES__COLOR_PROB", 1.5, "DETCON.PATCHES.COLOR_PROB is 1.5"),
    ],
)
def test_other_values_are_refused(key, value, message, photos):
    with pytest.raises(ValueError, match=message):
        Patches.from_config(config(photos, **{key: value}), 32)


def test_the_projection_keeps_grey_and_takes_green_against_the_others_out():
    np.testing.assert_allclose(PROJECTION @ PROJECTION, PROJECTION, atol=1e-12)
    np.testing.assert_allclose(PROJECTION @ np.ones(3), np.ones(3))
    np.testing.assert_allclose(PROJECTION @ [-1, 2, -1], np.zeros(3), atol=1e-12)
    np.testing.assert_allclose(PROJECTION, np.array([[5, 2, -1], [2, 2, 2], [-1, 2, 5]]) / 6)


def test_color_prob_is_a_share_of_the_images(photos):
    samples = Patches.from_config(config(photos, DETCON__PATCHES__COLOR="drop", DETCON__PATCHES__COLOR_PROB=0.5), 32)
    image = np.zeros((72, 96, 3), np.uint8)
    found = np.array([samples(image, None, position)["colors"].numpy() for position in range(200)])
    whole = (found == np.eye(3)).all((1, 2))
    assert 70 < whole.sum() < 130  # 4.2 standard deviations
    kept = found[~whole].diagonal(axis1=1, axis2=2)
    assert (kept.sum(1) == 1).all() and (kept.mean(0) > 0.15).all()


def test_a_standardised_tile_has_mean_0_and_variance_1_and_a_constant_one_is_0():
    tiles = torch.randn(2, 9, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 40 + 3
    found = standardise(tiles)
    torch.testing.assert_close(found.mean((2, 3, 4)), torch.zeros(2, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var((2, 3, 4), correction=0), torch.ones(2, 9))
    assert not standardise(torch.full((1, 3, 8, 8), 7.0)).any()


def overlapping(photos, flip_prob: float, size: int = 64, **changes: object) -> OverlappingPatches:
    view = ViewAugmentation(size, (0.3, 1.0), (0.75, 4 / 3), flip_prob, "bilinear_pil")
    colors = PhotometricAugmentation.from_config(config(photos, DETCON__AUG__JITTER_PROB="(1.0, 1.0)").DETCON.AUG, 0)
    return OverlappingPatches(seed=0, geometry=[view], photometric=[colors], **{"patch": 32, "step": 8, "drop_prob": 0.5} | changes)


@pytest.mark.parametrize(("height", "width"), [(300, 480), (120, 90), (12, 50), (3, 3)])
@pytest.mark.parametrize("flip_prob", [0.0, 1.0])
def test_patches_are_in_the_crop_and_in_reading_order_as_the_view_shows_them(photos, height, width, flip_prob):
    samples = overlapping(photos, flip_prob)
    for position in range(20):
        crop = samples.geometry[0].sample_view(np.random.default_rng([0, position, 0]), height, width)
        patches = samples.sample_geometry(position, height, width)
        found = boxes(patches)
        assert len(patches) == 25 and {patch.size for patch in patches} == {32} and len({(p.width, p.height) for p in patches}) == 1
        assert (found[:, :2] >= crop.box[:2]).all() and (found[:, 2:] <= crop.box[2:]).all()
        # A mirrored patch of a mirrored view is not mirrored.
        assert {patch.flip for patch in patches} == {False}
        left = found[:, 0] - crop.box[0] if not crop.flip else crop.box[2] - found[:, 2]
        expected = np.arange(25) % 5 * 8 * crop.width / 64, np.arange(25) // 5 * 8 * crop.height / 64
        assert np.abs(left - expected[0]).max() <= 1 and np.abs(found[:, 1] - crop.box[1] - expected[1]).max() <= 1


def test_each_patch_has_its_own_flip_colours_and_channel(photos):
    samples = overlapping(photos, 0.5)
    assert samples.grid == grid_side(64, 32, 8) == 5
    assert len(set(samples.sample_photometric(3))) == 25 and samples.sample_photometric(3) == samples.sample_photometric(3)
    flips, channels = (np.concatenate(found) for found in zip(*map(samples.sample_patches, range(80))))
    kept = channels.sum(1)
    assert set(kept) == {1, 3} and abs((kept == 1).mean() - 0.5) < 0.05 and abs(flips.mean() - 0.5) < 0.05
    assert (np.abs(channels[kept == 1].mean(0) - 1 / 3) < 0.06).all() and abs(np.corrcoef(flips, kept)[0, 1]) < 0.1
    sample = samples(np.zeros((80, 70, 3), np.uint8), None, 3)
    assert len(sample["views"]) == 25 and np.array_equal(sample["channels"], samples.sample_patches(3)[1])
