"""Label maps of tiles: those of the tile's pixels, made and stored under the tile's name in every format; what fails is named once."""

import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from detcon_d2.io.images import Reading, read_image
from detcon_d2.io.tiles import read_record, tile_records, whole_record
from detcon_d2.masks import build_generator, create_store, list_images, open_store, read_label_map
from detcon_d2.masks import worker as worker_module
from detcon_d2.masks.generate import generate
from detcon_d2.masks.store.formats import STORES
from detcon_d2.masks.store.merge import check, merge, take_over
from detcon_d2.masks.store.png_folder import read_failed
from detcon_d2.masks.worker import image_rng
from tests.annotated import write_coco
from tests.conftest import write_photos

formats = pytest.mark.parametrize("file_format", STORES)
TILED = Reading(tiles=64)
FH = build_generator("fh", scale=100.0, min_size=50)
ONE_PHOTO = ["a/000.png[64x64+0+0]", "a/000.png[64x64+0+8]", "a/000.png[64x64+32+0]", "a/000.png[64x64+32+8]"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two pictures of 96 x 72, which are four tiles of 64 each, and a small one."""
    folder = write_photos(tmp_path_factory.mktemp("scans"), 2)
    Image.fromarray(read_image(folder / "a" / "000.png")[:40, :50]).save(folder / "b" / "small.png")
    return folder


def run(folder, output, file_format="png", generator=FH, records=None, **options):
    store = create_store(output, generator, f"folder:{folder}", file_format, tiles=64)
    records = tile_records(list_images(f"folder:{folder}"), TILED) if records is None else records
    return store, generate(records, generator, store, progress=False, reading=TILED, **options)


def files(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@formats
def test_each_tile_has_the_label_map_of_its_pixels_and_its_image_is_decoded_once(scans, tmp_path, monkeypatch, file_format):
    read = []
    monkeypatch.setattr(worker_module, "read_record", lambda record, reading: (read.append(record["key"]), read_record(record, reading))[1])
    store, summary = run(scans, tmp_path / "m", file_format)
    assert (summary.total, summary.made, summary.failed) == (9, 9, {}) and read == ["a/000.png", "b/001.png", "b/small.png"]
    assert summary.lines()[0].startswith("9 images and tiles: 9 made") and "per image or tile" in summary.lines()[1]
    records = tile_records(list_images(f"folder:{scans}"), TILED)
    assert sorted(store.keys()) == sorted(record["key"] for record in records) and set(ONE_PHOTO) < store.keys()
    for record in records:
        expected = FH(read_record(record), image_rng(record["key"]))
        assert np.array_equal(read_label_map(store.references()[record["key"]]), expected)
    assert check(store, records, sizes=True, reading=TILED).is_complete
    # What is lost is made again, from one look at its image; the result is that of two workers.
    store.discard({ONE_PHOTO[2], ONE_PHOTO[3]})
    assert run(scans, tmp_path / "m", file_format)[1].made == 2 and read[3:] == ["a/000.png"]
    run(scans, tmp_path / "two", file_format, workers=2)
    assert files(tmp_path / "m") == files(tmp_path / "two")


def test_members_of_tars_are_named_by_image_and_tile_and_found_without_the_index(scans, tmp_path):
    store, _ = run(scans, tmp_path / "m", "tar")
    (path,) = tmp_path.glob("m/*.tar")
    with tarfile.open(path) as tar:
        names = tar.getnames()
    assert [name for name in names if "000" in name] == [f"{key.replace('.png', '')}.seg.png" for key in ONE_PHOTO]
    path.with_name(f"{path.name}.index.json").unlink()
    assert open_store(tmp_path / "m").keys() == store.keys()
    copied = take_over(tmp_path / "copied", [f"tar:{path}"], same_images=True)
    assert copied.keys() == store.keys() and copied.index["tiles"] == 64


@formats
def test_an_image_that_cannot_be_read_is_named_once_and_its_tiles_are_made_when_it_is_repaired(scans, tmp_path, file_format):
    folder = write_photos(tmp_path / "images", 2)
    path, data = folder / "a" / "000.png", (folder / "a" / "000.png").read_bytes()
    path.write_bytes(data[:5000])
    store, summary = run(folder, tmp_path / "m", file_format)
    assert (summary.total, summary.made, list(summary.failed)) == (8, 4, ["a/000.png"])
    assert "4 were there" not in summary.lines()[0] and summary.lines()[0].endswith("0 were there, 4 failed")
    assert list(read_failed(store.root)) == ["a/000.png"] and (store.root / "failed.txt").read_text().count("\n") == 1
    records = tile_records(list_images(f"folder:{folder}"), TILED)
    result = merge(store, records, sizes=True, reading=TILED)
    assert result.is_complete and result.lines(store)[0].startswith("8 images and tiles: 4 with label maps, 4 failed, 0 missing, 0 damaged")
    assert list(read_failed(store.root)) == ["a/000.png"]
    path.write_bytes(data)
    store, summary = run(folder, tmp_path / "m", file_format)
    assert (summary.made, summary.skipped) == (4, 4) and not (store.root / "failed.txt").exists()
    run(folder, tmp_path / "whole", file_format)
    assert files(tmp_path / "m") == files(tmp_path / "whole")


def test_regions_from_files_for_the_whole_image_are_cut(tmp_path):
    folder, masks = write_photos(tmp_path / "images", 2), tmp_path / "labels"
    labels = np.random.default_rng(0).integers(0, 9, (72, 96)).astype(np.uint8)
    for name in ("a/000.png", "b/001.png"):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(masks / name)
    store, summary = run(folder, tmp_path / "m", generator=build_generator("imported", masks=str(masks)))
    assert (summary.made, summary.failed) == (8, {})
    assert np.array_equal(store.read(ONE_PHOTO[3]), labels[8:72, 32:96])


def test_annotations_of_the_whole_image_are_cut(tmp_path):
    (tmp_path / "large").mkdir()
    records = list_images(write_coco(tmp_path / "large"))
    parts, generator = tile_records(records, TILED), build_generator("annotations")
    store = create_store(tmp_path / "m", generator, "coco", tiles=64)
    assert len(parts) > len(records) and generate(parts, generator, store, progress=False, reading=TILED).failed == {}
    for part in parts:
        whole = generator(read_record(whole_record(part)), image_rng(""), whole_record(part))
        x, y, size = part["tile"].x, part["tile"].y, (part["tile"].height, part["tile"].width)
        assert np.array_equal(store.read(part["key"]), whole[y : y + size[0], x : x + size[1]])


@pytest.mark.parametrize(("first", "second"), [(0, 64), (64, 0), (64, 128)])
def test_a_folder_holds_label_maps_of_one_size_of_tiles(tmp_path, first, second):
    words = {0: "of whole images", 64: "of tiles of 64 px", 128: "of tiles of 128 px"}
    create_store(tmp_path, FH, "folder:/x", tiles=first)
    with pytest.raises(ValueError, match=rf"found label maps of fh .*{words[first]}; expected fh .*{words[second]}\. A folder holds"):
        create_store(tmp_path, FH, "folder:/x", tiles=second)
    assert json.loads((tmp_path / "index.json").read_text()).get("tiles", 0) == first


def test_the_commands_speak_of_the_same_tiles(scans, tmp_path, run_tool):
    spec, masks, sheet = f"folder:{scans}", tmp_path / "m", tmp_path / "sheet.png"
    done = run_tool("generate_masks.py", spec, masks, "--tiles", 64, "--generator", "grid", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "2 larger images are cut into 8 tiles" in done.stdout and "9 images and tiles: 9 made" in done.stdout
    assert f"DETCON.MASKS.ROOTS '(\"{masks}\",)' DETCON.DATA.TILES 64" in done.stdout
    done = run_tool("merge_masks.py", masks, "--verify", "--sizes")
    assert done.returncode == 0 and "9 images and tiles: 9 with label maps" in done.stdout
    (masks / f"{ONE_PHOTO[1]}.png").unlink()
    done = run_tool("merge_masks.py", masks)
    assert done.returncode == 1 and f"MISSING {ONE_PHOTO[1]}" in done.stdout and "--generator grid --grid 2 --tiles 64" in done.stdout
    assert run_tool("generate_masks.py", spec, masks, "--tiles", 64, "--generator", "grid", "--workers", 1).returncode == 0
    done = run_tool("check_data.py", spec, "--tiles", 64)
    assert "3 images, which are not annotated\npretraining has 9 images: 1 whole and 8 tiles of 2 larger ones\n" in done.stdout
    done = run_tool("visualize_masks.py", spec, "--output", sheet, "--masks", masks, "--source", "grid size=3", "--num-images", 3)
    assert done.returncode == 0 and f"{sheet}: 3 images" in done.stdout, done.stderr
    done = run_tool("visualize_masks.py", spec, "--output", sheet, "--masks", masks, "--tiles", 80)
    assert done.returncode == 2 and "m: found label maps of tiles of 64 px; expected those of tiles of 80 px" in done.stderr
    done = run_tool("score_masks.py", "--coco", *write_coco(tmp_path).removeprefix("coco:").split(","), "--masks", masks)
    assert done.returncode == 2 and "m: found label maps of tiles of 64 px; expected those of whole images" in done.stderr
