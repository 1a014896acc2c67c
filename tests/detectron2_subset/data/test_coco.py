"""COCO jsons become the documented records on every backend present, and the same ones on both."""

import copy
import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

POLYGON = [1, 1, 3, 1, 3, 3]
COCO = {
    "images": [
        {"id": 7, "file_name": "b.jpg", "height": 10, "width": 12, "license": 3},
        {"id": 2, "file_name": "sub/a.jpg", "height": 5, "width": 6},
        {"id": 9, "file_name": "c.jpg", "height": 5, "width": 6},
    ],
    "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4], "iscrowd": 0, "segmentation": [POLYGON, [1, 1, 2]]},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 2,
            "bbox": [1, 2, 3, 4],
            "iscrowd": 1,
            "segmentation": {"size": [10, 12], "counts": [10, 10, 100]},
            "foo": 3,
        },
        {"id": 3, "image_id": 2, "category_id": 2, "bbox": [1.0, 2, 3, 4], "iscrowd": 0, "segmentation": [[1, 1, 3, 1]]},
        {"id": 4, "image_id": 2, "category_id": 2, "bbox": [1.0, 2, 3, 4], "iscrowd": 0, "keypoints": [1, 2, 2, 3, 4, 0]},
        {"id": 5, "image_id": 2, "category_id": 2, "bbox": [1.0, 2, 3, 4], "segmentation": []},
        {"id": 6, "image_id": 2, "category_id": 2, "bbox": [1.0, 2, 3, 4], "segmentation": {"size": [5, 6], "counts": "0R1"}},
    ],
}
NAME = "detcon_test_coco"


def write(folder: Path, **changes: dict) -> str:
    """COCO with annotation number ``index`` updated, for each ``a<index>=update``."""
    source = copy.deepcopy(COCO)
    for key, update in changes.items():
        source["annotations"][int(key[1:])].update(update)
    path = folder / "instances.json"
    path.write_text(json.dumps(source))
    return str(path)


@pytest.fixture
def load(backend):
    """``load_coco_json`` of the backend, with its metadata forgotten afterwards."""
    yield backend.get("data.datasets").load_coco_json
    backend.get("data").MetadataCatalog.pop(NAME, None)


def test_records_come_by_image_id_with_absolute_file_names(load, tmp_path):
    records = load(write(tmp_path), "/images")
    assert [record["image_id"] for record in records] == [2, 7, 9]
    assert [record["file_name"] for record in records] == ["/images/sub/a.jpg", "/images/b.jpg", "/images/c.jpg"]
    assert {key: records[1][key] for key in ("height", "width")} == {"height": 10, "width": 12}
    assert records[2]["annotations"] == []


def test_only_valid_polygons_are_kept(load, tmp_path):
    records = load(write(tmp_path), "/images")
    assert records[1]["annotations"][0]["segmentation"] == [POLYGON]
    assert len(records[0]["annotations"]) == 3


def test_crowds_become_compressed_runs_of_the_same_pixels(load, tmp_path):
    crowd = load(write(tmp_path), "/images")[1]["annotations"][1]
    expected = np.zeros(120, dtype=np.uint8)
    expected[10:20] = 1
    assert crowd["iscrowd"] == 1
    assert np.array_equal(coco_mask.decode(crowd["segmentation"]), expected.reshape(12, 10).T)


def test_keypoints_move_to_pixel_centres(load, tmp_path):
    assert load(write(tmp_path), "/images")[0]["annotations"][0]["keypoints"] == [1.5, 2.5, 2, 3.5, 4.5, 0]


def test_boxes_are_xywh(load, backend, tmp_path):
    annotation = load(write(tmp_path), "/images")[1]["annotations"][0]
    assert annotation["bbox"] == [1, 2, 3, 4] and annotation["bbox_mode"] == backend.get("structures").BoxMode.XYWH_ABS


def test_categories_become_contiguous_only_for_a_named_data_set(load, backend, tmp_path):
    path = write(tmp_path)
    assert [one["category_id"] for one in load(path, "/images")[1]["annotations"]] == [5, 2]
    assert [one["category_id"] for one in load(path, "/images", NAME)[1]["annotations"]] == [1, 0]
    metadata = backend.get("data").MetadataCatalog.get(NAME)
    assert metadata.thing_classes == ["cat", "dog"] and metadata.thing_dataset_id_to_contiguous_id == {2: 0, 5: 1}


def test_extra_keys_are_passed_on_request(load, tmp_path):
    path = write(tmp_path)
    assert load(path, "/images", extra_annotation_keys=["foo"])[1]["annotations"][1]["foo"] == 3
    assert "foo" not in load(path, "/images")[1]["annotations"][1]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"a1": {"id": 1}}, AssertionError),
        ({"a1": {"bbox": []}}, ValueError),
        ({"a1": {"ignore": 1}}, AssertionError),
        ({"a1": {"category_id": 77}}, KeyError),
    ],
)
def test_invalid_jsons_are_refused(load, tmp_path, changes, error):
    with pytest.raises(error):
        load(write(tmp_path, **changes), "/images", NAME)


def test_registered_jsons_load_by_name(backend, tmp_path):
    data = backend.get("data")
    path = write(tmp_path)
    backend.get("data.datasets").register_coco_instances(NAME, {"author": "me"}, path, "/images")
    try:
        assert len(data.DatasetCatalog.get(NAME)) == 3
        metadata = data.MetadataCatalog.get(NAME)
        assert (metadata.json_file, metadata.image_root, metadata.evaluator_type, metadata.author) == (path, "/images", "coco", "me")
        assert len(data.get_detection_dataset_dicts(NAME)) == 2
    finally:
        data.DatasetCatalog.remove(NAME)
        data.MetadataCatalog.remove(NAME)


def assert_same_records(subset, real, path: str, root: str) -> None:
    for name in (None, NAME):
        try:
            ours, theirs = (one.get("data.datasets").load_coco_json(path, root, name) for one in (subset, real))
            assert ours == theirs
            metadata = [one.get("data").MetadataCatalog.get(NAME).as_dict() for one in (subset, real)]
            assert metadata[0] == metadata[1]
        finally:
            for one in (subset, real):
                one.get("data").MetadataCatalog.pop(NAME, None)


def test_both_backends_give_the_same_records(subset, real, tmp_path):
    assert_same_records(subset, real, write(tmp_path), "/images")
    assert_same_records(subset, real, write(tmp_path, a1={"image_id": 99}, a2={"segmentation": None}), "/images")


def test_both_backends_give_the_same_records_for_real_images(subset, real, shared_dir):
    folder = shared_dir / "data" / "coco_subset"
    assert_same_records(subset, real, str(folder / "instances.json"), str(folder / "images"))


def test_a_json_without_annotations_gives_images_without_instances(load, tmp_path):
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps({key: COCO[key] for key in ("images", "categories")}))
    records = load(str(path), "/images", NAME)
    assert [record["image_id"] for record in records] == [2, 7, 9] and not any(record["annotations"] for record in records)


def test_a_missing_json_is_an_error_on_first_use_only(backend, tmp_path):
    data = backend.get("data")
    backend.get("data.datasets").register_coco_instances(NAME, {}, str(tmp_path / "nowhere.json"), "/images")
    try:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            data.DatasetCatalog.get(NAME)
    finally:
        data.DatasetCatalog.remove(NAME)
        data.MetadataCatalog.remove(NAME)


BUILTIN = ["coco_2014_train", "coco_2014_val", "coco_2014_minival", "coco_2014_valminusminival", "coco_2017_train"]
BUILTIN += ["coco_2017_val", "coco_2017_val_100", "coco_2017_test", "coco_2017_test-dev"]


@pytest.mark.parametrize("name", BUILTIN)
def test_cocos_own_data_sets_are_in_the_catalog(backend, name):
    data = backend.get("data")
    metadata = data.MetadataCatalog.get(name)
    assert name in data.DatasetCatalog.list() and metadata.evaluator_type == "coco"
    year, part = name.split("_")[1:3]
    assert f"{part}{year}" in metadata.json_file and os.path.join("coco", "annotations") in metadata.json_file
    assert len(metadata.thing_classes) == len(metadata.thing_dataset_id_to_contiguous_id) == 80
    assert (metadata.thing_classes[0], metadata.thing_classes[-1]) == ("person", "toothbrush")
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79


def test_cocos_own_data_sets_have_the_same_metadata_on_both_backends(subset, real):
    for name in BUILTIN:
        ours, theirs = (one.get("data").MetadataCatalog.get(name).as_dict() for one in (subset, real))
        # Colours are for Detectron2's visualizer, which the subset lacks.
        assert ours == {key: value for key, value in theirs.items() if key != "thing_colors"}


def test_cocos_own_data_sets_lie_where_the_environment_says(subset, tmp_path, monkeypatch):
    data = subset.get("data")
    metadata = data.MetadataCatalog.get("coco_2017_val")
    categories = [{"id": key, "name": metadata.thing_classes[index]} for key, index in metadata.thing_dataset_id_to_contiguous_id.items()]
    path = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": COCO["images"][:1], "annotations": [], "categories": categories}))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for catalog in (data.DatasetCatalog, data.MetadataCatalog):
        monkeypatch.setattr(catalog, "data", {})
    importlib.reload(subset.get("data.datasets.builtin"))
    assert data.DatasetCatalog.get("coco_2017_val")[0]["file_name"] == str(tmp_path / "coco" / "val2017" / "b.jpg")
