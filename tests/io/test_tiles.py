"""Tiles cover an image, are named by what they show, and have the pixels of the image as it is shown."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detcon_d2.io.images import ImageReadError, Reading, read_image
from detcon_d2.io.tiles import (
    Tile,
    cut,
    failed_keys,
    read_record,
    record_name,
    record_size,
    split_key,
    tile_record,
    tile_records,
    whole_record,
)

TILED = Reading(tiles=64)
side = st.integers(1, 60)


def record_of(path, **more) -> dict:
    return {"file_name": str(path), "key": path.name, "image_id": path.name} | more


@given(side, side, side)
def test_tiles_are_full_begin_at_multiples_except_the_last_and_cover_every_pixel_with_none_too_many(height, width, tile):
    tiles, covered = list(cut(height, width, tile)), np.zeros((height, width), int)
    for one in tiles:
        assert (one.height, one.width) == (min(tile, height), min(tile, width))
        assert all(start % tile == 0 or start + tile == length for start, length in ((one.y, height), (one.x, width)))
        covered[one.y : one.y + one.height, one.x : one.x + one.width] += 1
    assert covered.min() == 1 and len(tiles) == -(-height // tile) * -(-width // tile)


@pytest.mark.parametrize("key", ["a/7.jpg", "a/7", "a [1]/7[2x2+0+0].jpg", "a\n[1x1+0+0]b"])
def test_a_key_names_the_image_and_the_tile_and_gives_both_back(key):
    record, tile = {"file_name": "/data/x", "key": key, "height": 5}, Tile(64, 32, 128, 0)
    part = tile_record(record, tile)
    assert split_key(part["key"]) == (key, "[64x32+128+0]") and split_key(key) == (key, "")
    assert whole_record(part) == record == whole_record(record)
    assert (record_name(part), record_name(record)) == ("/data/x[64x32+128+0]", "/data/x")


def pictures(folder):
    """A turned JPEG, 16-bit grey of which one tile is dark, and a transparent PNG: larger than a tile; a small and a damaged image."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (80, 150, 3)).astype(np.uint8)).save(folder / "turned.jpg", exif=exif)
    grey = rng.integers(0, 2**16, (100, 70)).astype(np.uint16)
    grey[:64, :64] >>= 6
    Image.fromarray(grey).save(folder / "wide.png")
    Image.fromarray(rng.integers(0, 256, (64, 65, 4)).astype(np.uint8)).save(folder / "alpha.png")
    Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(folder / "small.png")
    (folder / "broken.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:30])
    return [record_of(path) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("fast", [False, True])
def test_a_tile_has_the_pixels_of_its_image_as_it_is_shown(tmp_path, fast):
    parts = tile_records(pictures(tmp_path), TILED)
    keys = ["alpha.png[64x64+0+0]", "alpha.png[64x64+1+0]", "broken.jpg", "small.png"]
    keys += [f"turned.jpg[64x64+{x}+{y}]" for y in (0, 64, 86) for x in (0, 16)]
    assert [part["key"] for part in parts] == keys + [f"wide.png[64x64+{x}+{y}]" for y in (0, 36) for x in (0, 6)]
    for part in parts:
        if part["key"] == "broken.jpg":
            with pytest.raises(ImageReadError, match=r"broken\.jpg: "):
                read_record(part, TILED, fast=fast)
            continue
        image, tile = read_image(part["file_name"]), part.get("tile", Tile(64, 64, 0, 0))
        found = read_record(part, TILED, fast=fast)
        assert np.array_equal(found, image[tile.y : tile.y + 64, tile.x : tile.x + 64])
        assert found.shape[:2] == record_size(part, TILED) and found.base is None


def test_sizes_come_from_the_files_and_annotations_of_stored_pixels_from_those(tmp_path):
    turned = next(record for record in pictures(tmp_path) if record["key"] == "turned.jpg")
    assert {part["key"] for part in tile_records([turned | {"height": 80, "width": 150}], TILED)} >= {"turned.jpg[64x64+86+16]"}
    assert len(tile_records([turned | {"height": 9, "width": 9}], TILED)) == 6


def test_without_tiles_records_are_returned_and_no_file_is_opened(tmp_path):
    records = [record_of(tmp_path / "absent.png")]
    assert tile_records(records, Reading()) is records
    assert tile_records(records, TILED) == records


def test_an_image_that_became_smaller_is_named(tmp_path):
    part = tile_record(record_of(tmp_path / "a.png"), Tile(64, 64, 10, 0))
    Image.new("RGB", (73, 64)).save(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match=r"a\.png: it has 73 x 64 pixels and no tile \[64x64\+10\+0\]"):
        read_record(part)


@pytest.mark.parametrize("tiles", [-1, 4, 63])
def test_a_number_of_tiles_is_refused(tiles):
    with pytest.raises(ValueError, match=rf"DETCON\.DATA\.TILES is {tiles}; expected the side of the tiles in pixels, at least 64, or 0"):
        Reading(tiles=tiles)


def test_the_log_says_how_many_images_are_cut(tmp_path):
    parts = tile_records([record for record in pictures(tmp_path) if record["key"] != "wide.png"], TILED)
    assert TILED.describe(parts) == ["2 larger images are cut into 8 tiles of 64 px (DETCON.DATA.TILES, --tiles)."]


def test_an_image_that_failed_stands_for_its_tiles():
    record = {"file_name": "/a.png", "key": "a.png"}
    first, second = (tile_record(record, Tile(64, 64, x, 0)) for x in (0, 64))
    assert failed_keys([first, second], {"a.png": "empty"}) == {first["key"]: "a.png", second["key"]: "a.png"}
    assert failed_keys([first, second, record], {second["key"]: "flat"}) == {second["key"]: second["key"]}
