"""Formats that no reader reads are named in one line, and near relatives of theirs are still read."""

import json
from pathlib import Path

import pytest

from detcon_d2.io.annotated.foreign import describe_json
from detcon_d2.io.annotated.read import read_annotated
from tests.annotated import write_coco, write_images, write_yolo

LABELME = {"version": "5.0", "shapes": [{"label": "nut", "points": [[1, 2], [3, 4], [1, 4]]}], "imagePath": "p0.png"}
PANOPTIC = {
    "images": [{"id": 1, "file_name": "p0.png", "height": 64, "width": 96}],
    "annotations": [{"image_id": 1, "file_name": "p0.png", "segments_info": [{"id": 7, "category_id": 1}]}],
    "categories": [{"id": 1, "name": "nut", "isthing": 1}],
}
RESULTS = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}]
DOTA = "imagesource:GoogleEarth\ngsd:0.26\n5.0 6.0 35.0 6.0 35.0 26.0 5.0 26.0 small-vehicle 0\n"


@pytest.mark.parametrize(
    ("content", "kind"), [(LABELME, "labelme's json of one image"), (PANOPTIC, "COCO's panoptic json"), (RESULTS, "a list of COCO results")]
)
def test_a_json_of_another_kind_is_named_with_what_to_do(tmp_path, content, kind):
    write_images(tmp_path / "images")
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=rf"a\.json is {kind}.*; (convert it to COCO, YOLO or VOC|convert it to instances|give the instances json)"
    ) as caught:
        read_annotated(f"coco:{tmp_path}/a.json,{tmp_path}/images")
    assert "\n" not in str(caught.value)


def test_an_instances_json_is_none_of_them(tmp_path):
    write_coco(tmp_path)
    assert describe_json(json.loads((tmp_path / "instances.json").read_text())) == ""
    assert describe_json([]) == describe_json(None) == ""


@pytest.mark.parametrize(("name", "text", "kind"), [("p0.json", json.dumps(LABELME), "labelme's json"), ("p0.txt", DOTA, "text of DOTA")])
@pytest.mark.parametrize("form", ["voc:{0}", "yolo:{0}", "coco:{0}/labels_of_it,{0}/images"])
def test_a_folder_of_another_kind_is_named_by_its_first_file(tmp_path, form, name, text, kind):
    write_images(tmp_path / "images")
    (tmp_path / "labels_of_it").mkdir()
    (tmp_path / "labels_of_it" / name).write_text(text)
    with pytest.raises(ValueError, match=rf"expected .*labels_of_it/{name} is {kind}.*convert it to COCO, YOLO or VOC"):
        read_annotated(form.format(tmp_path))


@pytest.mark.parametrize("form", ["yolo:{0}", "coco:{0}/labels/p0.txt,{0}/images"])
def test_text_of_dota_is_not_read_as_rows_of_yolo(tmp_path, form):
    write_images(tmp_path / "images")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "p0.txt").write_text(DOTA)
    with pytest.raises(ValueError, match=r"p0\.txt.* is text of DOTA, with four corners of turned boxes; convert it"):
        read_annotated(form.format(tmp_path))


def test_turned_boxes_of_yolo_are_polygons(tmp_path):
    spec = write_yolo(tmp_path)
    for path in Path(tmp_path, "labels", "train").iterdir():
        path.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 1e-05\n")
    assert [len(one["segmentation"][0]) for one in read_annotated(spec).annotations()] == [8, 8, 8]


def test_images_without_any_file_of_yolo_are_refused_with_what_was_looked_for(tmp_path):
    write_images(tmp_path / "images")
    with pytest.raises(
        ValueError, match=r"no text file of any of the 3 images; expected for example .*/labels/p0\.txt, or folder:.*images for"
    ):
        read_annotated(f"yolo:{tmp_path}")
