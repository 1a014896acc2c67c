"""Work in parts: together they are one run; and what is missing or damaged is said with the command that makes it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcon_d2.masks import build_generator, list_images, open_store
from detcon_d2.masks.generate import generate, parse_part
from detcon_d2.masks.store.formats import STORES, create_store
from detcon_d2.masks.store.merge import check, merge, take_over
from tests.conftest import write_photos
from tests.masks.test_generate import contents

GENERATOR = build_generator("fh", scale=100.0, min_size=50)
formats = pytest.mark.parametrize("file_format", STORES)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Eleven pictures and two files that are none."""
    folder = write_photos(tmp_path_factory.mktemp("images") / "i", 11)
    (folder / "a" / "empty.jpg").touch()
    (folder / "b" / "text.jpg").write_text("hello")
    return folder


def run(images: Path, output: Path, file_format: str, **options):
    store = create_store(output, GENERATOR, f"folder:{images}", file_format, images_per_file=5)
    generate(list_images(f"folder:{images}"), GENERATOR, store, progress=False, **options)
    return open_store(output)


def test_a_part_is_read_from_the_command_line_if_it_exists():
    assert parse_part("0/1") == (0, 1) and parse_part("15/16") == (15, 16)
    for text in ("16/16", "1", "-1/2", "a/b", "0/0", "1/2/3", ""):
        with pytest.raises(ValueError, match="expected i/n with i from 0 to n - 1"):
            parse_part(text)


@formats
def test_parts_in_one_folder_or_in_folders_of_their_own_are_one_run(images, tmp_path, file_format):
    run(images, tmp_path / "whole", file_format)
    for index in reversed(range(3)):
        store = run(images, tmp_path / "parts", file_format, part=(index, 3))
        run(images, tmp_path / f"part{index}", file_format, part=(index, 3))
    merged = take_over(tmp_path / "m", [str(tmp_path / f"part{index}") for index in range(3)], file_format, images_per_file=5)
    for one in (store, merged):
        report = merge(one, list_images(f"folder:{images}"))
        assert report.is_complete and report.failed.keys() == {"a/empty.jpg", "b/text.jpg"}
        assert contents(one.root) == contents(tmp_path / "whole")


def test_other_parameters_are_not_merged_and_another_data_set_on_request_only(images, tmp_path):
    run(images, tmp_path / "one", "tar")
    create_store(tmp_path / "grid", build_generator("grid"), f"folder:{images}", "tar")
    with pytest.raises(ValueError, match=r"found label maps of fh .*; expected grid"):
        take_over(tmp_path / "m", [str(tmp_path / "one"), str(tmp_path / "grid")], "tar")
    create_store(tmp_path / "other", GENERATOR, "folder:/elsewhere", "tar")
    folders = [str(tmp_path / "one"), str(tmp_path / "other")]
    with pytest.raises(ValueError, match=r"images of folder:.*; expected folder:/elsewhere.*--same-images"):
        take_over(tmp_path / "m", folders, "tar")
    assert len(take_over(tmp_path / "m", folders, "tar", same_images=True).keys()) == 11


@formats
def test_incomplete_parts_are_reported_and_not_packed(images, tmp_path, file_format, run_tool):
    run(images, tmp_path / "m", file_format, part=(1, 2))
    before = contents(tmp_path / "m")
    done = run_tool("merge_masks.py", tmp_path / "m")
    assert done.returncode == 1 and "13 images: 5 with label maps, 2 failed, 6 missing, 0 damaged" in done.stdout
    assert "MISSING a/000.png, a/002.png, a/004.png, a/006.png, a/008.png, ..." in done.stdout
    command = f"python tools/generate_masks.py folder:{images} {tmp_path}/m --generator fh --scale 100 --sigma 0.8 --min-size 50"
    assert command + ("" if file_format == "png" else f" --format {file_format}") in done.stdout
    assert contents(tmp_path / "m") == before


@formats
def test_damaged_label_maps_are_found_removed_and_made_again(images, tmp_path, file_format, run_tool):
    store = run(images, tmp_path / "m", file_format)
    before = contents(tmp_path / "m")
    reference = store.references()["b/005.png"]
    data = bytearray(Path(reference.path).read_bytes())
    data[reference.offset + 50 : reference.offset + 60] = bytes(10)
    Path(reference.path).write_bytes(data)
    report = check(open_store(tmp_path / "m"), list_images(f"folder:{images}"))
    assert list(report.damaged) == ["b/005.png"] and "damaged" in report.damaged["b/005.png"]
    done = run_tool("merge_masks.py", tmp_path / "m", "--repair")
    assert done.returncode == 1 and "DAMAGED b/005.png" in done.stdout and "make what is missing with:" in done.stdout
    assert "remove the damaged ones" not in done.stdout
    assert open_store(tmp_path / "m").keys() == store.keys() - {"b/005.png"}
    run(images, tmp_path / "m", file_format)
    assert contents(tmp_path / "m") == before


def test_label_maps_of_another_size_are_found_on_request(tmp_path):
    folder = write_photos(tmp_path / "i", 3)
    store = run(folder, tmp_path / "m", "tar")
    Image.new("RGB", (50, 40)).save(folder / "a" / "002.png")
    records = list_images(f"folder:{folder}")
    assert check(store, records).is_complete
    report = check(store, records, sizes=True)
    assert list(report.damaged) == ["a/002.png"] and "found a size of (72, 96); expected (40, 50)" in report.damaged["a/002.png"]


def test_the_tools_work_in_parts_and_verify(images, tmp_path, run_tool):
    flags = ("--generator", "grid", "--grid", 3, "--workers", 1, "--format", "tar", "--images-per-file", 4)
    for part in ("0/2", "1/2"):
        done = run_tool("generate_masks.py", f"folder:{images}", tmp_path / "m", *flags, "--shard", part)
        assert f"when all parts are done:  python tools/merge_masks.py {tmp_path}/m" in done.stdout, done.stderr
    assert run_tool("merge_masks.py", tmp_path / "m", "--verify").returncode == 1  # two images failed
    assert not list((tmp_path / "m").glob("*.tar"))
    merged = run_tool("merge_masks.py", tmp_path / "m", "--sizes")
    assert "11 with label maps, 2 failed, 0 missing" in merged.stdout and len(list((tmp_path / "m").glob("*.tar"))) == 3
    one = run_tool("generate_masks.py", f"folder:{images}", tmp_path / "one", *flags)
    assert one.returncode == 1 and contents(tmp_path / "one") == contents(tmp_path / "m")
    moved = shutil.move(tmp_path / "m", tmp_path / "moved")
    assert "11 with label maps" in run_tool("merge_masks.py", tmp_path / "png", moved, "--images", "none").stdout
    assert len(np.unique(open_store(tmp_path / "png").read("a/000.png"))) == 9
