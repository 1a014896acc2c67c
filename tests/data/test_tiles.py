"""Tiles in training: images of their own with the label maps of their pixels; label maps of other tiles are refused."""

import logging

import numpy as np
import pytest

from detcon_d2.data import count_classes, describe_masks, load_training_records, records_digest
from detcon_d2.io.images import Reading
from detcon_d2.io.tiles import tile_records, whole_record
from detcon_d2.masks import build_generator, create_store, list_images
from detcon_d2.masks.generate import generate
from tests.data.samples import loader_of, mapper_of
from tests.painted import numbered_pixels, painted_image

TILED = ("DETCON.DATA.TILES", 64)


@pytest.fixture
def large_set(empty_set):
    """A PNG of 150 x 100 in class a, which is six tiles of 64; a small one in class b; label maps of tiles and of whole images."""
    empty_set.add_painted("a/large.png", 100, 150)
    empty_set.add_painted("b/small.png", 64, 60)
    store = create_store(empty_set.folder.parent / "tiled", build_generator("grid"), empty_set.name, tiles=64)
    for record in tile_records(list_images(empty_set.name), Reading(tiles=64)):
        tile, whole = record.get("tile"), numbered_pixels(100, 150)
        part = whole[tile.y : tile.y + 64, tile.x : tile.x + 64] if tile else numbered_pixels(64, 60)
        store.write(record["key"], np.ascontiguousarray(part))
    return empty_set


def tiled_cfg(make_cfg, large_set, *opts):
    return make_cfg(large_set, *TILED, "DETCON.MASKS.ROOTS", (str(large_set.folder.parent / "tiled"),), *opts)


def test_each_tile_is_an_image_with_its_label_map_and_its_images_class(large_set, make_cfg):
    cfg = tiled_cfg(make_cfg, large_set)
    records, mapper = load_training_records(cfg), mapper_of(cfg)
    corners = [(x, y) for y in (0, 36) for x in (0, 64, 86)]
    assert [record["key"] for record in records] == [*(f"a/large.png[64x64+{x}+{y}]" for x, y in corners), "b/small.png"]
    assert [record["label"] for record in records] == [0] * 6 + [1] and count_classes(records) == 2
    for record, (x, y) in zip(records, corners):
        image, label_map = mapper.read(record, 0)
        assert np.array_equal(image, painted_image(100, 150)[y : y + 64, x : x + 64])
        assert np.array_equal(label_map, numbered_pixels(100, 150)[y : y + 64, x : x + 64])
    sample = mapper(records[5], 3)
    assert (sample["width"], sample["height"]) == (64, 64) and sample["file_name"].endswith("a/large.png[64x64+86+36]")
    assert describe_masks(cfg) == "grid size=2 tiles of 64 px"


def test_the_loader_shows_every_tile_in_an_epoch_whatever_the_workers(large_set, make_cfg):
    names = []
    for workers in (0, 2):
        loader = iter(loader_of(tiled_cfg(make_cfg, large_set, "DATALOADER.NUM_WORKERS", workers)))
        names.append([sample["file_name"] for _ in range(2) for sample in next(loader)])
    assert names[0] == names[1] and len(set(names[0][:7])) == 7


def test_tiles_are_other_images_than_the_whole_ones(large_set, make_cfg):
    grid = ("DETCON.MASKS.SOURCE", "grid")
    digests = [records_digest(load_training_records(make_cfg(large_set, *grid, "DETCON.DATA.TILES", tiles))) for tiles in (0, 64, 80, 150)]
    assert len(set(digests)) == 3 and digests[0] == digests[3]


@pytest.mark.parametrize(
    ("tiles", "stored", "found", "remedy"),
    [
        (64, "masks", "whole images; expected those of tiles of 64 px: 6 of 7", r"_tiles64 .*--tiles 64"),
        (0, "tiled", "tiles of 64 px; expected those of whole images: 1 of 2", r"_whole --generator grid --grid 2$"),
        (80, "tiled", "tiles of 64 px; expected those of tiles of 80 px: 4 of 5", r"_tiles80 .*--tiles 80"),
    ],
)
def test_label_maps_of_other_tiles_are_refused_with_the_remedy(large_set, make_cfg, tiles, stored, found, remedy):
    root = str(large_set.folder.parent / stored)
    with pytest.raises(ValueError, match=rf"(?s)DETCON\.DATA\.TILES is {tiles}, but .* has label maps of {found} .*: .*{remedy}") as error:
        load_training_records(make_cfg(large_set, "DETCON.DATA.TILES", tiles, "DETCON.MASKS.ROOTS", (root,)))
    assert str(error.value).count("a/large.png") == 1 and "Set DETCON.DATA.TILES" in str(error.value)


def test_label_maps_of_whole_images_serve_tiles_where_no_image_is_larger(large_set, make_cfg):
    records = load_training_records(make_cfg(large_set, "DETCON.DATA.TILES", 150))
    assert [record["key"] for record in records] == ["a/large.png", "b/small.png"]


def test_missing_label_maps_name_the_command_with_the_tiles(large_set, make_cfg, tmp_path):
    with pytest.raises(ValueError, match=rf"generate_masks\.py .* {tmp_path}/none --tiles 64"):
        load_training_records(make_cfg(large_set, *TILED, "DETCON.MASKS.ROOTS", (f"{tmp_path}/none",)))
    cfg = tiled_cfg(make_cfg, large_set)
    (tmp_path / "tiled" / "a" / "large.png[64x64+64+0].png").unlink()
    with pytest.raises(ValueError, match=r"1 of the 7 images .*: a/large\.png\[64x64\+64\+0\]\. Make them with: .*--tiles 64"):
        load_training_records(cfg)


def test_a_wrong_label_map_names_the_tile(large_set, make_cfg):
    cfg = tiled_cfg(make_cfg, large_set)
    record, other = load_training_records(cfg)[1], load_training_records(cfg)[6]
    with pytest.raises(ValueError, match=r"expected 64 x 64, the size of its image .*a/large\.png\[64x64\+64\+0\] after EXIF"):
        mapper_of(cfg).read(record | {"label_map_file_name": other["label_map_file_name"]}, 0)


def test_a_damaged_image_is_skipped_with_all_its_tiles_and_named_once(large_set, make_cfg, caplog):
    cfg = tiled_cfg(make_cfg, large_set, "DETCON.ON_BAD_IMAGE", "skip")
    records, path = load_training_records(cfg), large_set.folder / "a" / "large.png"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        loader = iter(loader_of(cfg, records + 20 * records[-1:]))
        shown = {sample["file_name"] for _ in range(4) for sample in next(loader)}
    assert shown == {f"{large_set.folder}/b/small.png"}
    assert sum("large.png" in record.getMessage() for record in caplog.records) == 1


def test_generated_label_maps_train(large_set, make_cfg, tmp_path):
    generator = build_generator("fh", scale=100.0, min_size=50)
    records, store = (
        tile_records(list_images(large_set.name), Reading(tiles=64)),
        create_store(tmp_path / "t", generator, large_set.name, "tar", tiles=64),
    )
    generate(records, generator, store, progress=False)
    cfg = make_cfg(large_set, *TILED, "DETCON.MASKS.ROOTS", (str(tmp_path / "t"),))
    for record in load_training_records(cfg):
        image, label_map = mapper_of(cfg).read(record, 0)
        assert np.array_equal(label_map, generator(image, None)) and whole_record(record)["key"] in ("a/large.png", "b/small.png")
