"""COCO json files become the documented records on both backends, and the same ones."""

import copy
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

POLYGON = [1, 1, 3, 1, 3, 3]
SHAPE = {"category_id": 2, "bbox": [1.0, 2, 3, 4]}
COCO = {
    "images": [
        {"id": 7, "file_name": "b.jpg", "height": 10, "width": 12, "license": 3},
        {"id": 2, "file_name": "sub/a.jpg", "height": 5, "width": 6},
        {"id": 9, "file_name": "c.jpg", "height": 5, "width": 6},
    ],
    "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4], "iscrowd": 0, "segmentation": [POLYGON, [1, 1, 2]]},
        {"id": 2, "image_id": 7, **SHAPE, "iscrowd": 1, "segmentation": {"size": [10, 12], "counts": [10, 10, 100]}, "foo": 3},
        {"id": 3, "image_id": 2, **SHAPE, "iscrowd": 0, "segmentation": [[1, 1, 3, 1]]},
        {"id": 4, "image_id": 2, **SHAPE, "iscrowd": 0, "keypoints": [1, 2, 2, 3, 4, 0]},
        {"id": 5, "image_id": 2, **SHAPE, "segmentation": []},
        {"id": 6, "image_id": 2, **SHAPE, "segmentation": {"size": [5, 6], "counts": "0R1"}},
    ],
}
NAME = "detcon_test_coco"


def write(folder: Path, **changes: dict) -> str:
    """Write COCO; ``a<index>=update`` updates one annotation."""
    source = copy.deepcopy(COCO)
    for key, update in changes.items():
        source["annotations"][int(key[1:])].update(update)
    path = folder / "instances.json"
    path.write_text(json.dumps(source))
    return str(path)


@pytest.fixture
def load(backend):
    """``load_coco_json`` of the backend; afterwards the metadata are removed."""
    yield backend.get("data.datasets").load_coco_json
    backend.get("data").MetadataCatalog.pop(NAME, None)


def test_records_come_by_image_id_with_valid_annotations(load, backend, tmp_path):
    records = load(write(tmp_path), "/images")
    assert [record["image_id"] for record in records] == [2, 7, 9]
    assert [record["file_name"] for record in records] == ["/images/sub/a.jpg", "/images/b.jpg", "/images/c.jpg"]
    assert (records[1]["height"], records[1]["width"], records[2]["annotations"]) == (10, 12, [])
    # The annotation without a valid polygon is left out, keypoints move to pixel centres.
    assert len(records[0]["annotations"]) == 3 and records[0]["annotations"][0]["keypoints"] == [1.5, 2.5, 2, 3.5, 4.5, 0]
    first, crowd = records[1]["annotations"]
    assert first["bbox"] == [1, 2, 3, 4] and first["bbox_mode"] == backend.get("structures").BoxMode.XYWH_ABS
    assert first["segmentation"] == [POLYGON]
    expected = np.zeros(120, dtype=np.uint8)
    expected[10:20] = 1
    assert crowd["iscrowd"] == 1 and np.array_equal(coco_mask.decode(crowd["segmentation"]), expected.reshape(12, 10).T)


def test_categories_become_contiguous_only_for_a_named_data_set(load, backend, tmp_path):
    path = write(tmp_path)
    assert [one["category_id"] for one in load(path, "/images")[1]["annotations"]] == [5, 2]
    assert [one["category_id"] for one in load(path, "/images", NAME)[1]["annotations"]] == [1, 0]
    metadata = backend.get("data").MetadataCatalog.get(NAME)
    assert metadata.thing_classes == ["cat", "dog"] and metadata.thing_dataset_id_to_contiguous_id == {2: 0, 5: 1}


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


def test_a_data_set_is_loaded_on_first_use(backend, tmp_path):
    data, path = backend.get("data"), str(tmp_path / "instances.json")
    backend.get("data.datasets").register_coco_instances(NAME, {"author": "me"}, path, "/images")
    try:
        with pytest.raises(FileNotFoundError, match="instances"):
            data.DatasetCatalog.get(NAME)
        write(tmp_path)
        assert len(data.DatasetCatalog.get(NAME)) == 3 and len(data.get_detection_dataset_dicts(NAME)) == 2
        metadata = data.MetadataCatalog.get(NAME)
        assert (metadata.json_file, metadata.image_root, metadata.evaluator_type, metadata.author) == (path, "/images", "coco", "me")
    finally:
        data.DatasetCatalog.remove(NAME)
        data.MetadataCatalog.remove(NAME)


@pytest.mark.parametrize("changes", [{}, {"a1": {"image_id": 99}, "a2": {"segmentation": None}}, None])
def test_both_backends_give_the_same_records(subset, real, tmp_path, request, changes):
    """None: photographs of COCO."""
    folder = request.getfixturevalue("shared_dir") / "data" / "coco_subset" if changes is None else tmp_path
    path = str(folder / "instances.json") if changes is None else write(tmp_path, **changes)
    for name in (None, NAME):
        results = []
        for one in (subset, real):
            records = one.get("data.datasets").load_coco_json(path, str(folder), name)
            metadata = one.get("data").MetadataCatalog.pop(NAME, None)
            results.append((records, metadata and metadata.as_dict()))
        assert results[0] == results[1]


BUILTIN = ["coco_2014_train", "coco_2014_val", "coco_2014_minival", "coco_2014_valminusminival", "coco_2017_train"]
BUILTIN += ["coco_2017_val", "coco_2017_val_100", "coco_2017_test", "coco_2017_test-dev"]


def test_the_data_sets_of_coco_are_in_the_catalog(backend):
    data = backend.get("data")
    for name in BUILTIN:
        metadata = data.MetadataCatalog.get(name)
        year, part = name.split("_")[1:3]
        assert name in data.DatasetCatalog.list() and f"{part}{year}" in metadata.json_file and "coco/annotations" in metadata.json_file
        assert len(metadata.thing_classes) == len(metadata.thing_dataset_id_to_contiguous_id) == 80
        assert (metadata.thing_classes[0], metadata.thing_classes[-1]) == ("person", "toothbrush")
        assert metadata.thing_dataset_id_to_contiguous_id[90] == 79


def test_the_data_sets_of_coco_have_the_same_metadata_on_both_backends(subset, real):
    for name in BUILTIN:
        ours, theirs = (one.get("data").MetadataCatalog.get(name).as_dict() for one in (subset, real))
        # Colors are for Detectron2's visualizer, which the subset does not have.
        assert ours == {key: value for key, value in theirs.items() if key != "thing_colors"}


def test_the_environment_says_where_the_data_sets_of_coco_are(subset, tmp_path, monkeypatch):
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
