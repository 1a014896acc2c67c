"""Folders are listed once each, files of other kinds are counted, and names survive."""

import logging
import os
from pathlib import Path

import pytest

from detcon_d2.io.folders import IMAGE_EXTENSIONS, list_files
from detcon_d2.io.names import escape_name, fit_name, printable, unescape_name
from detcon_d2.io.specs import canonical_spec, list_images


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def keys(root: Path) -> list[str]:
    return [record["key"] for record in list_images(f"folder:{root}")]


def test_folders_that_link_to_each_other_give_each_image_once_by_its_own_name(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    for folder, others in (("a", "bc"), ("b", "ac"), ("c", "ab")):
        for other in others:
            (tmp_path / folder / f"to_{other}").symlink_to(Path("..", other))
        (tmp_path / folder / "up").symlink_to("..")
    assert keys(tmp_path) == ["a/1.png", "b/2.png", "c/3.png"]


def test_a_folder_outside_is_listed_once_by_the_first_of_its_links(tmp_path):
    touch(tmp_path / "out", "deep/1.png", "2.png")
    touch(tmp_path / "in", "9.png")
    for name in ("y", "x"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "out")
    (tmp_path / "out" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "a").symlink_to(tmp_path / "out" / "deep")
    assert keys(tmp_path / "in") == ["9.png", "a/1.png", "x/2.png"]


def test_pipes_are_skipped_and_a_link_to_nothing_stays(tmp_path):
    touch(tmp_path, "1.png")
    os.mkfifo(tmp_path / "2.png")
    (tmp_path / "3.png").symlink_to("gone")
    assert keys(tmp_path) == ["1.png", "3.png"]


def test_files_of_other_kinds_are_counted_in_the_log(tmp_path, caplog):
    touch(tmp_path, "1.JPG", "2.HEIC", "3.heic", "4.dcm", "5", "x/6.CR2", ".hidden", "a\x1b[31m.b\x1b[0m")
    with caplog.at_level(logging.INFO):
        assert keys(tmp_path) == ["1.JPG"]
    assert "left out: 2 x .heic, 1 x .dcm, 1 x no extension, 1 x .b\\x1b[0m, 1 x .cr2." in caplog.text
    assert "convert them to PNG or JPEG" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        list_images(f"folder:{touch(tmp_path / 'clean', '1.png')}")
    assert not caplog.text


def test_the_kinds_that_pillow_reads_are_images():
    always = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2"}
    assert always <= IMAGE_EXTENSIONS
    assert {".avif", ".tga", ".qoi"} <= IMAGE_EXTENSIONS and not {".pdf", ".mpg", ".h5", ".eps"} & IMAGE_EXTENSIONS


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot list"):
        list(list_files(tmp_path / "gone"))


@pytest.mark.parametrize(
    "name", ["plain.png", "a\nb\tc\r.png", r"back\slash\n.png", "\x1b]0;x\x07", "\udc80\udcff.png", "☃ \u202egnp", "\\"]
)
def test_escaped_names_are_printable_and_come_back(name):
    text = escape_name(name)
    assert text.isprintable() and text.encode() and unescape_name(text) == name
    assert printable(name).isprintable()


@pytest.mark.parametrize("length", [1, 250, 251, 252, 255])
@pytest.mark.parametrize("letter", ["a", "ö", "\udc80"])
def test_long_names_are_cut_and_stay_different(length, letter):
    count = length // len(os.fsencode(letter))
    one, other = fit_name(letter * count, ".jpg"), fit_name("b" + letter * (count - 1), ".jpg")
    assert len(os.fsencode(one)) <= 255 and one.endswith(".jpg") and one != other
    assert length > 251 or one == letter * count + ".jpg"


def test_a_comma_in_a_folder_is_part_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "Berlin, Mai/1.png"))
    assert canonical_spec("folder:Berlin, Mai") == f"folder:{tmp_path}/Berlin, Mai"
    assert canonical_spec("coco:a.json,b") == f"coco:{tmp_path}/a.json,{tmp_path}/b"
