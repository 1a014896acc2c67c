"""video: lists the frames of clips in the order of time, and says what it found where there are none."""

import numpy as np
import pytest
from PIL import Image

from detcon_d2.io.specs import canonical_spec, check_output_outside
from detcon_d2.masks import list_images
from tests.io.test_specs import keys, touch


def test_frames_are_listed_clip_by_clip_in_natural_order(tmp_path):
    touch(tmp_path, "b/f2.png", "b/f10.png", "b/f1.png", "a/deep/000002.JPG", "a/deep/000001.JPG", "b/cover.png", "b/sound1.wav", "._1.png")
    records = list_images(f"video:{tmp_path}")
    assert [record["key"] for record in records] == ["a/deep/000001.JPG", "a/deep/000002.JPG", "b/f1.png", "b/f2.png", "b/f10.png"]
    frame = {"file_name": str(tmp_path / "b/f10.png"), "image_id": "b/f10.png", "key": "b/f10.png", "clip": "b"}
    assert records[-1] == frame and records[0]["clip"] == "a/deep"


def test_one_folder_of_frames_is_one_clip(tmp_path):
    touch(tmp_path, "2.png", "1.png")
    assert [(record["key"], record["clip"]) for record in list_images(f"video:{tmp_path}")] == [("1.png", "."), ("2.png", ".")]


def test_class_folders_of_clips_give_labels_and_clips_alone_do_not(tmp_path):
    touch(tmp_path, "run/x/1.png", "jump/y/1.png", "jump/z/1.png")
    assert [record["label"] for record in list_images(f"video:{tmp_path}")] == [0, 0, 1]
    touch(tmp_path, "w/1.png")
    assert not any("label" in record for record in list_images(f"video:{tmp_path}"))


def test_folders_without_clips_say_what_was_found_and_what_to_do(tmp_path):
    touch(tmp_path, "some/film.mp4", "some/cover.png", "empty/.hidden")
    for path, message in (
        ("some", r"found 1 x \.png, 1 x \.mp4 and no clip; expected folders of numbered frames.*ffmpeg"),
        ("empty", "found no files and no clip"),
        ("nowhere", "found nothing at"),
        ("some/film.mp4", "found a file at"),
    ):
        with pytest.raises(ValueError, match=message):
            list_images(f"video:{tmp_path / path}")


def test_specs_are_made_absolute_and_output_must_be_outside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert canonical_spec("video:clips/") == f"video:{tmp_path / 'clips'}"
    with pytest.raises(ValueError, match="inside the images of video:clips"):
        check_output_outside("video:clips", "clips/masks")


def test_tools_count_clips_and_make_regions_of_every_frame(run_tool, tmp_path):
    for number in (1, 2, 10):
        path = touch(tmp_path / "clips" / "a", f"{number}.png") / f"{number}.png"
        Image.fromarray(np.full((20, 30, 3), 20 * number, np.uint8)).save(path)
    done = run_tool("check_data.py", f"video:{tmp_path / 'clips'}")
    assert done.returncode == 0 and "3 images in 1 clips of 3 to 3 frames" in done.stdout
    done = run_tool("generate_masks.py", f"video:{tmp_path / 'clips'}", tmp_path / "masks", "--generator", "grid", "--workers", 1)
    assert done.returncode == 0 and "3 made" in done.stdout
    assert sorted(path.name for path in (tmp_path / "masks").rglob("*.png")) == ["1.png.png", "10.png.png", "2.png.png"]
    assert keys(f"folder:{tmp_path / 'clips'}") == ["a/1.png", "a/10.png", "a/2.png"]
