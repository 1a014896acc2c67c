"""COCO jsons as tools and people write them: read as meant, repaired with a count, or refused with found and expected."""

import json
import os
import re
import unicodedata
from collections.abc import Callable

import pytest
from PIL import Image

from detcon_d2.io.annotated.checks import check_annotations, refusals
from detcon_d2.io.annotated.dataset import AnnotatedData
from detcon_d2.io.annotated.read import read_annotated
from tests.annotated import HEIGHT, WIDTH, each, write_coco, write_images


def read(spec: str, masks: bool = True) -> AnnotatedData:
    data = read_annotated(spec)
    check_annotations(data, masks=masks)
    return data


def per_image(content: dict) -> None:
    seen: dict[int, int] = {}
    for annotation in content["annotations"]:
        annotation["id"] = seen[annotation["image_id"]] = seen.get(annotation["image_id"], 0) + 1


def text_ids(content: dict) -> None:
    for image in content["images"]:
        image["id"] = f"{image['id']:04d}"
    each(lambda one: one.update(image_id=f"{one['image_id']:04d}"))(content)


def names_as_ids(content: dict) -> None:
    for image in content["images"]:
        image["id"] = f"photo {image['id']}"
    each(lambda one: one.update(image_id=f"photo {one['image_id']} "))(content)


def text_categories(content: dict) -> None:
    for category in content["categories"]:
        category["id"] = str(category["id"])


def first_image_as_text(content: dict) -> None:
    content["images"][0]["id"] = "1"
    content["annotations"][0]["image_id"] = "1"


def of_each(**changes: object) -> Callable[[dict], None]:
    """A change of one or several keys of each annotation; a function gets the annotation."""
    return each(lambda one: one.update({key: value(one) if callable(value) else value for key, value in changes.items()}))


def without(*keys: str) -> Callable[[dict], None]:
    return each(lambda one: [one.pop(key) for key in keys])


@pytest.mark.parametrize(
    "change",
    [
        of_each(image_id=lambda one: str(one["image_id"])),
        of_each(image_id=lambda one: float(one["image_id"])),
        of_each(image_id=lambda one: f"p{one['image_id'] - 1}.png"),
        of_each(image_id=lambda one: f"p{one['image_id'] - 1}"),
        of_each(category_id=lambda one: str(one["category_id"])),
        of_each(category_id=lambda one: float(one["category_id"])),
        text_ids,
        names_as_ids,
        text_categories,
        first_image_as_text,
        per_image,
        of_each(id=0),
        without("id"),
        without("area"),
        without("iscrowd"),
        without("id", "area", "iscrowd"),
        of_each(iscrowd="0"),
        of_each(iscrowd=None),
        of_each(area=None),
        of_each(area=float("nan")),
        without("bbox"),
        of_each(bbox=None),
        of_each(bbox=[]),
        of_each(bbox=lambda one: list(map(str, one["bbox"]))),
        of_each(ignore=0),
    ],
)
def test_what_is_meant_is_read(change, tmp_path):
    expected = read(write_coco(tmp_path, name="right.json"))
    data = read(write_coco(tmp_path, change))
    assert refusals(data, 0.0, no_masks="") == []
    keys = ("bbox", "area", "iscrowd", "segmentation")
    for record, right in zip(data.records, expected.records):
        assert record["file_name"] == right["file_name"]
        assert [[one[key] for key in keys] for one in record["annotations"]] == [[one[key] for key in keys] for one in right["annotations"]]
        assert [data.categories[one["category_id"]] for one in record["annotations"]] == [
            expected.categories[one["category_id"]] for one in right["annotations"]
        ]
    ids = [one["id"] for one in data.annotations()]
    assert sorted(set(ids)) == sorted(ids) and min(ids) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            each(lambda one: one.update(image_id=one["image_id"] + 100)),
            r"none of the 5 annotations .* for example 101, the id of an image 1",
        ),
        (each(lambda one: one.update(image_id="a.png")), r"none of the 5 annotations .* for example 'a\.png', the id of an image 1"),
        (lambda content: content["images"][1].pop("id"), r"an image without id: images\[1\] is"),
        (lambda content: content["images"][2].pop("file_name"), r"an image without file_name: images\[2\] is"),
        (lambda content: content["images"].append(3), r"images\[3\] is 3"),
        (lambda content: content["categories"][1].pop("name"), r"a category without name: categories\[1\] is"),
        (lambda content: content["categories"].append({"id": 1, "name": "a"}), "3 categories with 2 ids"),
        (lambda content: content.update(annotations={}), 'found "annotations" {}; expected a list'),
        (lambda content: [one.update(file_name="p0.png") for one in content["images"]], r"1 file names \(doubled: p0\.png\)"),
        (lambda content: [one.update(id=1) for one in content["images"]], "3 images with 1 ids"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(change, message, tmp_path):
    with pytest.raises(ValueError, match=message) as refused:
        read(write_coco(tmp_path, change))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["annotations"][0].update(category_id=7), r"category_id 7, but the ids in categories are \[1, 2\]"),
        (lambda content: content.pop("categories"), 'category_id 1, but the json has no "categories"'),
        (lambda content: content["annotations"][3].pop("category_id"), r"annotations\[3\] has no category_id"),
        (lambda content: content["categories"][1].update(name="bolt"), "2 are called 'bolt'"),
        (lambda content: content["images"][0].update(file_name="P0.PNG"), r"no file .*/P0\.PNG, nor one file .* for example, p\d\.png"),
        (lambda content: content["images"][0].update(width=48), r"image p0\.png: the file is 96 x 64 .* annotations are for 48 x 64"),
        (lambda content: content["images"][0].update(width=64, height=96), r"the file is 96 x 64 .* annotations are for 64 x 96"),
    ],
)
def test_what_no_detector_can_train_on_is_refused(change, message, tmp_path):
    lines = refusals(read(write_coco(tmp_path, change)), 1.0, no_masks="")
    assert any(re.search(message, line) for line in lines), lines


@pytest.mark.parametrize("mode", ["absent", "text", "minus", "zero", "null", "fraction"])
def test_sizes_that_the_json_does_not_give_are_those_of_the_files(mode, tmp_path):
    values = {"text": ("96", "64"), "minus": (-1, -1), "zero": (0, 0), "null": (None, None), "fraction": (95.5, 63.5)}

    def change(content: dict) -> None:
        for image in content["images"]:
            del image["width"], image["height"]
            if mode != "absent":
                image["width"], image["height"] = values[mode]

    data = read(write_coco(tmp_path, change))
    assert {(record["height"], record["width"]) for record in data.records} == {(64, 96)}
    assert refusals(data, 0.0, no_masks="") == []
    assert any("size of the file" in line or "that of the file" in line for line in data.summary()) == (mode != "text")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda one: one.update(bbox=[*one["bbox"][:2], one["bbox"][0] + one["bbox"][2], one["bbox"][1] + one["bbox"][3]]), "box"),
        (lambda one: one.update(bbox=[value / 96 for value in one["bbox"]]), "narrower than a pixel"),
        (lambda one: one.update(bbox=[float("nan")] * 4), "not finite"),
        (lambda one: one.update(bbox=[0, 0, float("inf"), 5]), "not finite"),
        (lambda one: one.update(bbox=["a", 0, 1, 5]), "not four numbers"),
        (lambda one: one.update(bbox=one["bbox"][:3]), "not four numbers"),
        (lambda one: one.update(bbox={"x": 1, "y": 2, "w": 3, "h": 4}), "not four numbers"),
        (lambda one: one.update(bbox="1,2,3,4"), "not four numbers"),
        (lambda one: one.update(bbox=[50, 50, -10, -10]), "negative"),
        (lambda one: one.update(bbox=[200, 50, 10, 10]), "outside the image"),
        (lambda one: one.update(bbox=[90, 50, 10, 10]), "reaches out"),
        (lambda one: one.update(bbox=[1, 1, 3, 3]), "not that of its mask"),
        (lambda one: one.update(segmentation=[[1, 2, 3, 4]]), "mask cannot be read"),
        (lambda one: one.update(segmentation="text"), "mask cannot be read"),
        (
            lambda one: one.update(segmentation=[[value * 1e7 for value in one["segmentation"][0]]]),
            "mask cannot be read|not that of its mask",
        ),
        (lambda one: one.update(segmentation={"size": [64, 96], "counts": "1"}), "mask cannot be read"),
        (lambda one: one.pop("segmentation"), "have no mask; REMEDY"),
        (lambda one: one.update(segmentation=[]), "have no mask; REMEDY"),
    ],
)
def test_odd_annotations_are_counted_and_above_a_share_refused(change, kind, tmp_path):
    (line,) = refusals(read(write_coco(tmp_path, each(change))), 0.1, no_masks="REMEDY")
    assert re.search(kind, line) and re.search(r"\d of 5 annotations", line), line
    # One of five is below the share: it is left out or kept, and named.
    data = read(write_coco(tmp_path, lambda content: change(content["annotations"][4])))
    assert refusals(data, 0.2, no_masks="") == [] and len(data.annotations()) in (4, 5)
    assert any("1 annotation" in line and "image p2.png" in line for line in data.summary()[1:])


def test_masks_that_are_not_needed_need_not_be_right(tmp_path):
    data = read(write_coco(tmp_path, each(lambda one: one.update(segmentation=[[float("nan")] * 6]))), masks=False)
    assert refusals(data, 0.0, no_masks="") == [] and not any("segmentation" in one for one in data.annotations())


def test_what_is_to_be_ignored_is_a_crowd(tmp_path):
    data = read(write_coco(tmp_path, lambda content: content["annotations"][0].update(ignore=1)))
    assert [one["iscrowd"] for one in data.annotations()] == [1, 0, 0, 0, 0] and "ignore" not in data.annotations()[0]


def test_a_root_category_that_only_groups_others_is_left_out_and_said(tmp_path):
    def add_root(content: dict) -> None:
        content["categories"].insert(0, {"id": 0, "name": "part", "supercategory": "none"})

    data = read(write_coco(tmp_path, add_root))
    assert data.categories == {1: "bolt", 2: "nut"} and "part (id 0)" in data.summary()[1]
    used = read(write_coco(tmp_path, lambda content: (add_root(content), content["annotations"][0].update(category_id=0))))
    assert used.class_names() == ["part", "bolt", "nut"]


def test_annotations_of_images_that_are_not_listed_are_left_out(tmp_path):
    data = read(write_coco(tmp_path, lambda content: content["images"].pop(0)))
    assert len(data.annotations()) == 3 and refusals(data, 0.0, no_masks="") == []
    assert "2 other annotations, its image is not listed" in data.summary()[1]


NAMES = (
    "images\\{}",
    "..\\..\\app\\media\\{}",
    "../images/{}",
    "{root}/images/{}",
    "images/{}",
    "./{}",
    "http://host/x/{}",
    "a/../{}",
    "a/b/{}",
)


@pytest.mark.parametrize("form", NAMES)
def test_names_are_found_with_and_without_folders(form, tmp_path):
    def rename(content: dict) -> None:
        for image in content["images"]:
            image["file_name"] = form.format(image["file_name"], root=tmp_path)

    data = read(write_coco(tmp_path, rename))
    assert [record["key"] for record in data.records] == ["p0.png", "p1.png", "p2.png"]
    assert all(os.path.samefile(record["file_name"], tmp_path / "images" / record["key"]) for record in data.records)


def test_files_in_folders_that_the_names_lack_are_found_unless_two_could_be_meant(tmp_path):
    spec = write_coco(tmp_path)
    (tmp_path / "images").rename(tmp_path / "other")
    (tmp_path / "images").mkdir()
    (tmp_path / "other").rename(tmp_path / "images" / "train")
    assert [record["key"] for record in read(spec).records] == ["train/p0.png", "train/p1.png", "train/p2.png"]
    write_images(tmp_path / "images" / "val")
    assert "3 images, the file is not there" in refusals(read(spec), 0.1, no_masks="")[0]


@pytest.mark.parametrize(("on_disk", "in_json"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_the_forms_of_a_unicode_letter_are_equal(on_disk, in_json, tmp_path):
    def rename(content: dict) -> None:
        for number, image in enumerate(content["images"]):
            name = f"grün{number}.png"
            os.rename(tmp_path / "images" / image["file_name"], tmp_path / "images" / unicodedata.normalize(on_disk, name))
            image["file_name"] = unicodedata.normalize(in_json, name)

    assert all(os.path.isfile(record["file_name"]) for record in read(write_coco(tmp_path, rename)).records)


def test_lvis_names_its_images_by_address(tmp_path):
    def lvis(content: dict) -> None:
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/images/{image.pop('file_name')}"
        each(lambda one: one.pop("iscrowd"))(content)

    data = read(write_coco(tmp_path, lvis))
    assert [record["key"] for record in data.records] == ["p0.png", "p1.png", "p2.png"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not a json file"),
        (b"", "not a json file"),
        (b"[" * 100_000, "nested too deeply"),
        ('{"images": "größer"}'.encode("latin-1"), "not UTF-8; expected a text file in UTF-8"),
        (b"\xff\xfe\x00", "not UTF-16"),
        (b"[]", 'no list "images"'),
        (b'{"images": []}', "expected at least one"),
    ],
)
def test_damaged_files_are_one_line(data, message, tmp_path):
    spec = write_coco(tmp_path)
    (tmp_path / "instances.json").write_bytes(data)
    with pytest.raises(ValueError, match=message) as refused:
        read(spec)
    assert "\n" not in str(refused.value) and "instances.json" in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_files_with_a_mark_are_read(encoding, tmp_path):
    spec = write_coco(tmp_path)
    path = tmp_path / "instances.json"
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    path.write_bytes(mark + json.dumps(json.loads(path.read_text())).encode(encoding))
    assert len(read(spec).records) == 3


@pytest.mark.parametrize("absent", [1, 3])
def test_absent_images_are_skipped_where_that_is_meant_unless_all_are_absent(tmp_path, absent):
    spec = write_coco(tmp_path)
    for number in range(absent):
        (tmp_path / "images" / f"p{number}.png").unlink()
    lines = refusals(read(spec), 1.0, no_masks="", skip_images=True)
    assert len(lines) == (absent == 3) and all("3 images" in line for line in lines), lines


@pytest.mark.parametrize(("orientation", "stored", "wrong"), [(6, True, True), (6, False, False), (1, True, False)])
def test_where_a_photo_on_its_side_is_annotated_as_stored_one_on_its_head_is_refused(tmp_path, orientation, stored, wrong):
    sides = {"width": WIDTH, "height": HEIGHT} if stored else {"width": HEIGHT, "height": WIDTH}
    spec = write_coco(tmp_path, lambda content: content["images"][1].update(sides))
    for name, value in (("p0.png", 3), ("p1.png", orientation)):
        with Image.open(tmp_path / "images" / name) as image:
            exif = image.getexif()
            exif[0x0112] = value
            image.save(tmp_path / "images" / name, exif=exif)
    lines = refusals(read(spec), 1.0, no_masks="")
    assert len(lines) == wrong and all("remove the EXIF orientation" in line and "p0.png" in line for line in lines), lines


def test_names_cannot_write_to_the_terminal(tmp_path):
    def change(content):
        content["images"][0]["file_name"] = "a\x1b[2J\nERROR b.png"
        content["categories"][0]["name"] = "bolt\x1b[31m"

    for line in read(write_coco(tmp_path, change)).summary():
        assert line.isprintable()


@pytest.mark.parametrize("change", [lambda name: f"COCO_val2014_{name}", lambda name: ""], ids=["0.5", "1"])
def test_images_of_lvis_are_found_by_the_end_of_their_address(tmp_path, change):
    def lvis(content):
        for image in content["images"]:
            image |= {"coco_url": f"http://images.cocodataset.org/val2017/{image['file_name']}", "file_name": change(image["file_name"])}

    data = read(write_coco(tmp_path, lvis))
    assert [record["key"] for record in data.records] == ["p0.png", "p1.png", "p2.png"]
    assert not list(data.findings)
