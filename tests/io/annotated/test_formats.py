"""The same objects in every format are the same annotations; what a format lacks or has wrong is named."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from detcon_d2.io.annotated.checks import check_annotations, refusals
from detcon_d2.io.annotated.dataset import AnnotatedData
from detcon_d2.io.annotated.read import read_annotated
from detcon_d2.io.segmentations import encode_segmentation
from detcon_d2.masks import list_images
from tests.annotated import CLASSES, HEIGHT, OBJECTS, WIDTH, write_cityscapes, write_coco, write_images, write_masks, write_voc, write_yolo

# Ten levels of ten references each: 10 billion entries if it were written out.
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11)) + "names: *a10\ntrain: *a10\n"
WRITERS = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
    "yolo-polygons": lambda root: write_yolo(root, polygons=True),
    "cityscapes": write_cityscapes,
    "masks": write_masks,
}


def read(spec: str, masks: bool = False) -> AnnotatedData:
    data = read_annotated(spec)
    check_annotations(data, masks=masks)
    return data


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_boxes_classes_and_sizes(kind, tmp_path):
    data = read(WRITERS[kind](tmp_path))
    names = {"cityscapes": ("car", "person"), "masks": ("object", "object")}.get(kind, CLASSES)
    assert not list(data.findings) or kind == "yolo-polygons"
    assert [(record["height"], record["width"]) for record in data.records] == [(HEIGHT, WIDTH)] * len(OBJECTS)
    for record, objects in zip(data.records, OBJECTS):
        found = {(data.categories[one["category_id"]], *np.round(one["bbox"], 6)) for one in record["annotations"]}
        assert found == {(names[category], *box) for category, *box in objects}
        for annotation in record["annotations"]:
            assert annotation["area"] == pytest.approx(annotation["bbox"][2] * annotation["bbox"][3], rel=0.05)
            assert annotation["iscrowd"] == 0
    assert len({one["id"] for one in data.annotations()}) == sum(map(len, OBJECTS))
    assert refusals(data, 0.0, no_masks="") == []


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_is_a_list_of_images_with_relative_keys(kind, tmp_path):
    records = list_images(WRITERS[kind](tmp_path))
    assert all(Path(record["file_name"]).is_file() and not record["key"].startswith("/") for record in records)
    assert [Path(record["key"]).name for record in records] == sorted(Path(record["key"]).name for record in records)
    assert all(record["file_name"].endswith(record["key"]) for record in records)


@pytest.mark.parametrize("kind", ["coco", "yolo-polygons", "cityscapes", "masks"])
def test_masks_cover_the_objects(kind, tmp_path):
    data = read(WRITERS[kind](tmp_path), masks=True)
    for record, objects in zip(data.records, OBJECTS):
        areas = sorted(int(area_of(one["segmentation"])) for one in record["annotations"])
        assert areas == sorted(width * height for *_, width, height in objects)


def area_of(segmentation: object) -> int:
    return coco_mask.area(encode_segmentation(segmentation, HEIGHT, WIDTH))


def test_a_split_of_voc_has_the_classes_of_the_whole_folder(tmp_path):
    spec = write_voc(tmp_path)
    train, val = read(f"{spec},train"), read(f"{spec},val")
    assert (len(train.records), len(val.records)) == (2, 1)
    assert train.categories == val.categories == {1: "bolt", 2: "nut"}
    with pytest.raises(ValueError, match=r"no list .*test\.txt; expected one of the lists there \(train, val\)"):
        read(f"{spec},test")


def test_difficult_objects_of_voc_are_crowds_and_damaged_xml_is_named(tmp_path):
    spec = write_voc(tmp_path)
    path = tmp_path / "Annotations" / "p1.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    data = read(spec)
    assert [one["iscrowd"] for one in data.records[1]["annotations"]] == [1]
    assert "difficult" in "".join(data.summary())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"p1\.xml cannot be read: not an xml file"):
        read(spec)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "iso-8859-1"])
def test_xml_is_read_in_the_encoding_that_it_declares(encoding, tmp_path):
    spec = write_voc(tmp_path)
    path = tmp_path / "Annotations" / "p0.xml"
    declared = encoding.removesuffix("-sig").upper()
    path.write_text(f'<?xml version="1.0" encoding="{declared}"?>' + path.read_text().replace("bolt", "größer"), encoding=encoding)
    assert "größer" in read(spec).class_names()


def test_rows_of_yolo_that_cannot_be_read_are_counted_and_named(tmp_path):
    spec = write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "p1.txt").write_text("0 0.5 0.5 0.2\nbolt 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.5 0.5\n\n")
    (line,) = refusals(read(spec), 0.1, no_masks="")
    assert "2 of 7 annotations" in line and "p1.txt, line 1" in line
    assert refusals(read(spec), 0.3, no_masks="") == []


def test_pixels_in_place_of_fractions_are_refused(tmp_path):
    spec = write_yolo(tmp_path)
    for path in (tmp_path / "labels" / "train").iterdir():
        path.write_text("0 40 30 20 20\n")
    assert "3 of 3 annotations" in refusals(read(spec), 0.1, no_masks="")[0]


@pytest.mark.parametrize("form", ["folder", "dict", "roboflow", "list", "undeclared"])
def test_yolo_folders_and_yamls_of_other_tools(form, tmp_path):
    spec = write_yolo(tmp_path)
    yaml = tmp_path / "data.yaml"
    if form == "folder":
        spec = f"yolo:{tmp_path},train"
    elif form == "dict":
        yaml.write_text(f"path: {tmp_path}\ntrain: images/train\nnames:\n  0: bolt\n  1: nut\n")
    elif form == "roboflow":
        yaml.write_text("train: ../images/train\nvalid: ../images/train\nnames: [bolt, nut]\n")
    elif form == "list":
        (tmp_path / "train.txt").write_text("\n".join(f"images/train/p{number}.png" for number in range(3)))
        yaml.write_text("train: train.txt\nnames: [bolt, nut]\n")
    else:
        yaml.unlink()
        spec = f"yolo:{tmp_path},train"
    data = read(spec)
    assert (len(data.records), len(data.annotations())) == (3, 5)
    assert data.class_names() == (["class 0", "class 1"] if form == "undeclared" else ["bolt", "nut"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not a yaml file"),
        ("[1]", "no mapping"),
        ("names: [a]", "which has the splits none"),
        ("train: nowhere", "found nothing at"),
    ],
)
def test_a_damaged_data_yaml_is_explained(text, message, tmp_path):
    spec = write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(spec)


def test_a_class_without_a_name_is_refused(tmp_path):
    spec = write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "p1.txt").write_text("5 0.5 0.5 0.2 0.2\n")
    assert "class 5, but names are" in refusals(read(spec), 0.1, no_masks="")[0]


def test_groups_of_cityscapes_are_crowds_and_other_classes_nothing(tmp_path):
    spec = write_cityscapes(tmp_path)
    path = next((tmp_path / "gtFine").rglob("a_1_*.png"))
    labels = np.full((HEIGHT, WIDTH), 7, np.uint16)
    labels[:10, :10], labels[20:30, :10], labels[40:50, :10] = 26, 29001, 24000
    Image.fromarray(labels).save(path)
    found = read(spec).records[1]["annotations"]
    assert sorted((one["category_id"], one["iscrowd"]) for one in found) == [(24, 0), (26, 1)]


def test_images_without_a_mask_file_are_left_out_and_named(tmp_path):
    spec = write_masks(tmp_path)
    (tmp_path / "masks" / "p1.png").unlink()
    data = read(spec, masks=True)
    assert len(data.records) == 2 and "image p1.png" in data.summary()[1]
    for path in (tmp_path / "masks").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"no mask of any of the 3 images; expected for example .*masks/p0\.png"):
        read(spec)


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "cityscapes", "masks"])
def test_paths_that_are_not_there_are_named(kind, tmp_path):
    specs = {"coco": "coco:/no/a.json,/no/images", "masks": f"masks:{tmp_path},/no/masks"}
    with pytest.raises(ValueError, match=r"there is no f.*(/no|/no/masks).*expected"):
        read(specs.get(kind, f"{kind}:/no"))


def test_commas_in_paths_are_no_separators(tmp_path):
    root = tmp_path / "Berlin, Mai, 3"
    root.mkdir()
    assert len(read(write_coco(root)).records) == 3
    assert len(read(write_yolo(tmp_path / "a, b")).records) == 3
    assert len(read(f"{write_voc(tmp_path / 'c, d')},train").records) == 2
    write_images(tmp_path / "e, f")
    assert len(list_images(f"folder:{tmp_path / 'e, f'}")) == 3


def test_renamed_files_of_voc_are_found_by_the_name_of_the_xml(tmp_path):
    spec = write_voc(tmp_path)
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(re.sub("<filename>.*</filename>", "<filename>IMG_1.png</filename>", path.read_text()))
    assert [record["key"] for record in read(spec).records] == ["p0.png", "p1.png", "p2.png"]
    (tmp_path / "JPEGImages" / "p0.png").rename(tmp_path / "JPEGImages" / "IMG_1.png")
    (tmp_path / "JPEGImages" / "p1.png").unlink()
    with pytest.raises(ValueError, match=r"found IMG_1\.png as the image of several xml files"):
        read(spec)
