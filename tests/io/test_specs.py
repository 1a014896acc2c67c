"""Data set specs: what is listed, in which order, under which key and label, and what is refused."""

import ast
import json
import logging
import os
import shlex
from pathlib import Path

import pytest

from detcon_d2.io.specs import canonical_spec, check_output_outside
from detcon_d2.masks import is_dataset_spec, list_images
from detcon_d2.masks.command_lines import train_hint


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def keys(spec: str) -> list[str]:
    return [record["key"] for record in list_images(spec)]


def test_specs_are_told_from_catalog_names():
    assert all(is_dataset_spec(spec) for spec in ("folder:/a", "coco:a,b", "list:x"))
    assert not any(is_dataset_spec(name) for name in ("coco_2017_train", "folder", "my:set", ""))
    with pytest.raises(ValueError, match="expected folder:/path"):
        list_images("coco_2017_train")


def test_a_folder_is_listed_sorted_by_key_with_images_only(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/y/x.tiff", "notes.txt", ".hidden.jpg", "._b.JPG", ".cache/c.jpg", "x.heic")
    records = list_images(f"folder:{tmp_path}")
    assert [record["key"] for record in records] == ["a/y/x.tiff", "a/z.png", "b.JPG"]
    assert records[1] == {"file_name": str(tmp_path / "a/z.png"), "image_id": "a/z.png", "key": "a/z.png"}


def test_class_folders_give_labels_by_sorted_name(tmp_path):
    touch(tmp_path, "dog/1.png", "cat/deep/2.png", "cat/1.png", "README.md")
    labels = {record["key"]: record["label"] for record in list_images(f"folder:{tmp_path}")}
    assert labels == {"cat/1.png": 0, "cat/deep/2.png": 0, "dog/1.png": 1}
    touch(tmp_path, "top.png")
    assert not any("label" in record for record in list_images(f"folder:{tmp_path}"))


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("train2017", "unlabeled2017"), ("Training", "Testing"), ("train",)])
def test_folders_of_a_data_sets_parts_are_no_classes(names, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for name in names:
        touch(tmp_path, f"{name}/cat/a.jpg")
    assert not any("label" in record for record in list_images(f"folder:{tmp_path}"))
    assert f"({', '.join(sorted(names))}), so images have no classes. For classes give one part, such as folder:" in caplog.text
    assert caplog.text.strip().endswith(f"/{names[0]}")
    assert [record["label"] for record in list_images(f"folder:{tmp_path / names[0]}")] == [0]
    touch(tmp_path, "bus/a.jpg")
    # Beside others, "train" is a class.
    assert {record["label"] for record in list_images(f"folder:{tmp_path}")} == set(range(len(names) + 1))


def test_linked_class_folders_are_followed_and_loops_end(tmp_path):
    touch(tmp_path / "elsewhere", "1.png")
    touch(tmp_path / "images" / "b", "2.png")
    (tmp_path / "images" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "b" / "loop").symlink_to(tmp_path / "images")
    assert keys(f"folder:{tmp_path / 'images'}") == ["a/1.png", "b/2.png"]


def test_relative_and_home_paths_become_absolute(tmp_path, monkeypatch):
    touch(tmp_path / "set", "1.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = str(tmp_path / "set" / "1.png")
    assert [list_images(spec)[0]["file_name"] for spec in ("folder:set", "folder:~/set/")] == [expected, expected]
    assert canonical_spec("folder:set/") == f"folder:{tmp_path / 'set'}"
    assert canonical_spec("coco:a.json,set") == f"coco:{tmp_path / 'a.json'},{tmp_path / 'set'}"
    assert canonical_spec("coco_2017_train") == "coco_2017_train"


def test_empty_folders_and_folders_without_images_say_what_was_found(tmp_path):
    touch(tmp_path, "some/a.heic", "some/b.heic", "some/README", "none/.hidden")
    for path, message in (
        (f"{tmp_path}/none", r"found no files; expected images \(.*\.jpg"),
        (f"{tmp_path}/some", r"found 2 x \.heic, 1 x no extension"),
        (f"{tmp_path}/nowhere", "found nothing at"),
        (f"{tmp_path}/some/README", "found a file at"),
        ("", "without a path"),
    ):
        with pytest.raises(ValueError, match=message):
            list_images(f"folder:{path}")


def test_output_inside_the_image_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one outside"):
        check_output_outside(f"folder:{tmp_path}", tmp_path / "masks")
    check_output_outside(f"folder:{tmp_path}", f"{tmp_path}_masks")
    check_output_outside(f"list:{tmp_path}/a.txt", tmp_path / "masks")


def coco_spec(tmp_path: Path, content: object) -> str:
    (tmp_path / "a.json").write_text(content if isinstance(content, str) else json.dumps(content))
    (tmp_path / "images").mkdir(exist_ok=True)
    return f"coco:{tmp_path / 'a.json'},{tmp_path / 'images'}"


def test_a_coco_json_gives_sizes_ids_and_annotations(tmp_path):
    images = [{"id": 7, "file_name": "z.jpg", "height": 4, "width": 5}, {"id": 3, "file_name": "sub/a.jpg"}]
    annotations = [{"image_id": 7, "segmentation": []}, {"image_id": 99, "segmentation": []}]
    touch(tmp_path / "images", "sub/a.jpg", "z.jpg")
    first, second = list_images(coco_spec(tmp_path, {"images": images, "annotations": annotations}))
    path = str(tmp_path / "images/sub/a.jpg")
    assert first == {"file_name": path, "image_id": 3, "key": "sub/a.jpg", "annotations": []}
    assert (second["image_id"], second["height"], second["width"], len(second["annotations"])) == (7, 4, 5, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "not a json file"),
        ([], 'found no list "images"'),
        ({"images": []}, "expected at least one"),
        ({"images": [{"id": 1}]}, "an image without file_name"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}]}, r"doubled: a\.jpg"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]}, "2 images with 1 ids"),
    ],
)
def test_damaged_coco_files_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        list_images(coco_spec(tmp_path, content))


def test_coco_specs_need_two_existing_paths(tmp_path):
    for spec, message in (
        ("coco:a.json", "expected two"),
        (f"coco:{tmp_path}/no.json,{tmp_path}", "there is no file"),
        ("coco:a.json,/no/dir", "no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            list_images(spec)


def test_a_list_takes_relative_and_absolute_paths_labels_and_comments(tmp_path):
    touch(tmp_path, "lists/b.jpg", "lists/sub/a b.jpg", "lists/c.jpg", "other/d.jpg")
    lines = ["# photos", "", "b.jpg\t1", "sub/a b.jpg\t0", f"{tmp_path}/lists/c.jpg\t2", "../other/d.jpg\t3"]
    (tmp_path / "lists/train.txt").write_text("\n".join(lines))
    records = list_images(f"list:{tmp_path}/lists/train.txt")
    outside = str(tmp_path / "other/d.jpg")
    assert {record["key"]: record["label"] for record in records} == {"b.jpg": 1, "sub/a b.jpg": 0, "c.jpg": 2, outside.lstrip("/"): 3}
    assert {record["file_name"] for record in records} >= {str(tmp_path / "lists/sub/a b.jpg"), outside}
    assert keys(f"list:{tmp_path}/lists/train.txt") == sorted(record["key"] for record in records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected a UTF-8 text file"),
        (b"\xff\xfe\x00", "expected a UTF-8 text file"),
        (b"# only a comment\n\n", "found no image path in 2"),
        (b"a.jpg\tdog", "line 1"),
        (b"a.jpg\t1\t2", "line 1"),
        (b"a.jpg\t1\nb.jpg", "labels on 1 of 2 lines"),
    ],
)
def test_damaged_lists_are_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "a.txt").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        list_images(f"list:{tmp_path}/a.txt")


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "open/1.png", "closed/2.png")
    scandir = os.scandir

    def refuse_closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_closed)
    with pytest.raises(ValueError, match=r"cannot list .*closed: Permission denied"):
        list_images(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("sub/a b.png\nb.png", "utf-8-sig"),
        ("sub/a b.png\nb.png", "utf-16"),
        ("sub/a b.png\r\nb.png\r\n", "utf-8"),
        ("sub\\a b.png\nb.png", "utf-8"),
        ('"sub/a b.png"\n"b.png"', "utf-8"),
        ("sub/a b.png 3\nb.png 1", "utf-8"),
        ("sub/a b.png,3\nb.png,1", "utf-8"),
        ('"sub/a b.png","3"\n"b.png","1"', "utf-8"),
        ("sub/a b.png; 3\nb.png; 1", "utf-8"),
        ("file,label\nsub/a b.png,3\nb.png,1", "utf-8"),
        ("images/sub/a b.png\nimages/b.png", "utf-8"),
    ],
)
def test_lists_as_other_tools_write_them_are_read(text, encoding, tmp_path):
    touch(tmp_path, "sub/a b.png", "b.png")
    (tmp_path / "list.txt").write_bytes(text.encode(encoding))
    records = list_images(f"list:{tmp_path / 'list.txt'}")
    assert [record["key"] for record in records] == ["b.png", "sub/a b.png"]
    assert [record["label"] for record in records if "label" in record] == ([1, 3] if "3" in text else [])


def test_a_list_of_files_that_are_not_there_says_what_was_looked_for(tmp_path):
    touch(tmp_path, "b.png")
    (tmp_path / "list.txt").write_text("c.png dog\n")
    with pytest.raises(ValueError, match=r"none of the 1 images is there: found no file .*/c\.png dog, .* a TAB and a whole number"):
        list_images(f"list:{tmp_path / 'list.txt'}")


@pytest.mark.parametrize("name", ["Tom's photos", "Berlin, Mai", 'say "hi"', "dollar $HOME", "semi;colon", "c:drive", "köln ☃", "a  b %"])
def test_folders_of_any_name_are_listed_and_the_hint_is_what_a_shell_and_the_config_read(name, tmp_path):
    touch(tmp_path / name, "sub/p 0.png")
    spec = canonical_spec(f"folder:{tmp_path / name}")
    assert keys(spec) == ["sub/p 0.png"]
    words = shlex.split(train_hint(spec, tmp_path / name))
    assert (ast.literal_eval(words[3]), ast.literal_eval(words[5])) == ((spec,), (str(tmp_path / name),))


def test_a_coco_spec_without_any_of_its_images_says_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"none of the 1 images is there: image a\.jpg: found no file .*images/a\.jpg"):
        list_images(coco_spec(tmp_path, {"images": [{"id": 1, "file_name": "a.jpg"}]}))
