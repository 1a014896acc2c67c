"""check_data prints what is odd as a table, draws it, and its exit status says whether the data can be used."""

import numpy as np
import pytest
from PIL import Image

from tests.annotated import HEIGHT, WIDTH, each, write_coco, write_voc, write_yolo


def test_good_data_sets_are_counted(run_tool, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    done = run_tool("check_data.py", write_coco(tmp_path / "a"), write_coco(tmp_path / "b"), f"folder:{tmp_path / 'a' / 'images'}")
    assert done.returncode == 0 and "all data sets can be used" in done.stdout
    assert done.stdout.count("3 images (0 without annotations), 5 annotations") == 2 and "3 images, which are not annotated" in done.stdout


def test_odd_annotations_are_a_table_and_pictures(run_tool, tmp_path):
    def change(content):
        content["annotations"][0]["bbox"] = [float("nan"), 1e308, -1e308, 2]
        content["annotations"][1]["bbox"] = [80, 30, 400, 10]
        content["annotations"][2].pop("area")
        content["annotations"][3]["segmentation"] = [[0, 0, 1e9, 5, 7, 7]]

    picture = tmp_path / "odd.png"
    done = run_tool("check_data.py", write_coco(tmp_path, change), "--output", picture)
    assert done.returncode == 1, done.stderr
    expected = (
        "| left out",
        "| looks wrong",
        "| repaired",
        "its box is not finite",
        "TO CORRECT",
        "--max-left-out",
        f"pictures: {picture}",
    )
    for text in expected:
        assert text in done.stdout
    assert (np.asarray(Image.open(picture)) == (230, 30, 30)).all(axis=2).any()
    assert run_tool("check_data.py", write_coco(tmp_path, change), "--max-left-out", 0.7).returncode == 0


def test_boxes_are_enough_for_detectors_of_boxes(run_tool, tmp_path):
    spec = write_voc(tmp_path)
    done = run_tool("check_data.py", spec)
    assert done.returncode == 1 and "5 of 5 annotations have no mask; give --boxes" in done.stdout
    assert run_tool("check_data.py", f"{spec},train", f"{spec},val", "--boxes").returncode == 0


def test_classes_that_differ_between_the_sets_are_told(run_tool, tmp_path):
    first = write_yolo(tmp_path / "yolo")
    (tmp_path / "coco").mkdir()
    other = write_coco(tmp_path / "coco", lambda content: content["categories"][0].update(name="screw"))
    done = run_tool("check_data.py", first, other, "--boxes")
    assert done.returncode == 1 and "only in the first: 1 (screw); only in the second: 1 (bolt)" in done.stdout


def test_annotations_that_are_all_crowds_are_told(run_tool, tmp_path):
    done = run_tool("check_data.py", write_coco(tmp_path, each(lambda one: one.update(iscrowd=1))))
    assert done.returncode == 1 and "all 5 annotations are crowds (iscrowd 1)" in done.stdout and "set iscrowd 0" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(annotations=[]), "found no annotations; pretraining can"),
        (lambda content: content.pop("annotations"), 'found no annotations, as there is no list "annotations"; pretraining can'),
    ],
)
def test_a_set_without_annotations_is_told_and_remains_one_for_pretraining(change, message, run_tool, tmp_path):
    done = run_tool("check_data.py", write_coco(tmp_path, change))
    assert done.returncode == 0 and f"{message} use its images" in done.stdout


@pytest.mark.parametrize("arguments", [["coco:/no.json,/no"], ["nothing:/a"], ["folder:/no"]])
def test_what_cannot_be_read_is_one_line(run_tool, arguments, tmp_path):
    done = run_tool("check_data.py", *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_an_unreadable_image_is_drawn_as_a_blank(run_tool, tmp_path):
    spec = write_coco(tmp_path, each(lambda one: one.update(bbox=None, segmentation=None)))
    (tmp_path / "images" / "p0.png").write_bytes(b"")
    done = run_tool("check_data.py", spec, "--output", tmp_path / "odd.jpg")
    assert done.returncode == 1 and "it has neither a box nor a mask" in done.stdout and (tmp_path / "odd.jpg").is_file()


def test_annotations_for_the_stored_pixels_are_drawn_on_them(run_tool, tmp_path):
    spec = write_coco(tmp_path, each(lambda one: one.pop("area")))
    sheets = []
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for path in (tmp_path / "images").iterdir():
            Image.open(path).save(path, exif=exif)
        assert run_tool("check_data.py", spec, "--output", tmp_path / "odd.png").returncode == 0
        sheets.append(np.asarray(Image.open(tmp_path / "odd.png")))
    np.testing.assert_array_equal(*sheets)


def test_images_above_pillows_limit_need_the_option_that_the_message_names(run_tool, tmp_path, monkeypatch):
    spec = write_yolo(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT // 3)
    done = run_tool("check_data.py", spec, "--boxes")
    assert done.returncode == 1 and "--max-pixels if you mean it" in done.stdout
    assert run_tool("check_data.py", spec, "--boxes", "--max-pixels", WIDTH * HEIGHT).returncode == 0


def test_images_that_cannot_be_cut_into_tiles_are_told(run_tool, tmp_path):
    for name, size in (("small", (20, 10)), ("large", (300, 200))):
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(tmp_path / f"{name}.png")
    good = run_tool("check_data.py", f"folder:{tmp_path}", "--tiles", "100")
    assert good.returncode == 0 and "7 images: 1 whole and 6 tiles of 1 larger ones" in good.stdout
    done = run_tool("check_data.py", f"folder:{tmp_path}", "--tiles", "100", "--max-pixels", "5000")
    assert done.returncode == 1 and "TO CORRECT 1 of 2 images cannot be opened, the first: " in done.stdout
    assert "large.png" in done.stdout and "--max-pixels" in done.stdout
