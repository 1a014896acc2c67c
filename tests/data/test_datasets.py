"""Names in the config become records with label maps and labels, or an error that says what to do."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from detcon_d2 import d2
from detcon_d2.data import count_classes, describe_masks, load_records, load_training_records
from detcon_d2.masks.store.png_folder import LabelMapStore


def test_records_carry_label_maps_and_class_folder_labels(painted_set, make_cfg):
    records = load_training_records(make_cfg(painted_set))
    assert [record["key"] for record in records] == sorted(f"{'ab'[n % 2]}/{n}.png" for n in range(10))
    for record in records:
        assert str(record["label_map_file_name"]) == str(painted_set.masks / f"{record['key']}.png")
        assert record["label"] == "ab".index(record["key"][0])
    assert count_classes(records) == 2


def test_several_data_sets_are_joined_in_order(painted_set, make_cfg, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(painted_set.folder, other / "images")
    shutil.copytree(painted_set.masks, other / "masks")
    cfg = make_cfg(painted_set)
    cfg.DATASETS.TRAIN = (painted_set.name, f"folder:{other / 'images'}")
    cfg.DETCON.MASKS.ROOTS = (str(painted_set.masks), str(other / "masks"))
    records = load_training_records(cfg)
    assert len(records) == 20 and records[10]["label_map_file_name"].path.startswith(str(other))
    assert count_classes(records) == 2


@pytest.mark.parametrize("layout", ["no labels", "other classes"])
def test_labels_that_do_not_agree_are_dropped_with_a_warning(painted_set, make_cfg, tmp_path, caplog, layout):
    other = tmp_path / "other"
    names = {"no labels": ("x.png",), "other classes": ("c/x.png", "d/x.png")}[layout]
    for name in names:
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(other / name)
    cfg = make_cfg(None, "DETCON.MASKS.SOURCE", "grid")
    cfg.DATASETS.TRAIN = (painted_set.name, f"folder:{other}")
    records = load_training_records(cfg)
    assert count_classes(records) == 0 and not any("label" in record for record in records)
    assert "labels of DATASETS.TRAIN are dropped" in caplog.text


def test_classes_are_counted_only_where_every_image_has_one():
    assert count_classes([]) == 0
    assert count_classes([{"label": 0}, {}]) == 0
    assert count_classes([{"label": 0}, {"label": 4}]) == 5


def test_a_catalog_name_gives_keyed_records(painted_set):
    files = sorted(painted_set.folder.rglob("*.png"))
    name = "test_data_painted_set"
    d2.DatasetCatalog.register(name, lambda: [{"file_name": str(path), "image_id": n} for n, path in enumerate(files)])
    try:
        assert [record["key"] for record in load_records(name)] == [path.relative_to(painted_set.folder).as_posix() for path in files]
    finally:
        d2.DatasetCatalog.remove(name)


def test_a_registered_coco_set_has_the_keys_of_its_spec(painted_set, tmp_path):
    images = [
        {"id": n, "file_name": path.relative_to(painted_set.folder).as_posix(), "height": 1, "width": 1}
        for n, path in enumerate(sorted(painted_set.folder.rglob("*.png")))
    ]
    json_path = tmp_path / "instances.json"
    json_path.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "thing"}], "info": {}}))
    name = "test_data_registered_coco"
    d2.register_coco_instances(name, {}, str(json_path), str(painted_set.folder))
    try:
        found = load_records(name)
    finally:
        d2.DatasetCatalog.remove(name)
        d2.MetadataCatalog.remove(name)
    expected = load_records(f"coco:{json_path},{painted_set.folder}")
    assert [(record["key"], record["image_id"]) for record in found] == [(record["key"], record["image_id"]) for record in expected]


def test_an_unknown_name_lists_what_is_possible():
    with pytest.raises(ValueError, match=r"'no_such_set', which is no data set\. Expected folder:"):
        load_records("no_such_set")


def test_no_data_set_is_refused(make_cfg):
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN is empty"):
        load_training_records(make_cfg(None, "DATASETS.TRAIN", ()))


def test_an_empty_folder_is_refused(make_cfg, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected images"):
        load_training_records(make_cfg(None, "DATASETS.TRAIN", (f"folder:{tmp_path / 'empty'}",), "DETCON.MASKS.SOURCE", "grid"))


def test_missing_label_maps_are_counted_named_and_the_command_is_given(painted_set, make_cfg):
    for number in (3, 5, 7):
        painted_set.store.path(f"b/{number}.png").unlink()
    # Half a file from a power failure is as good as none.
    painted_set.store.path("b/9.png").write_bytes(b"")
    with pytest.raises(ValueError) as error:
        load_training_records(make_cfg(painted_set))
    text = str(error.value)
    assert "4 of the 10 images" in text and "b/3.png, b/5.png, b/7.png, b/9.png" in text
    assert f"python tools/generate_masks.py {painted_set.name} {painted_set.masks} --generator grid --grid 2" in text


@pytest.mark.parametrize("state", ["does not exist", "has no index.json"])
def test_a_root_without_label_maps_is_refused(painted_set, make_cfg, state):
    if state == "does not exist":
        shutil.rmtree(painted_set.masks)
    else:
        (painted_set.masks / "index.json").unlink()
    with pytest.raises(ValueError, match=rf"{state}(.|\n)*generate_masks.py"):
        load_training_records(make_cfg(painted_set))


def test_roots_must_be_parallel_to_the_data_sets(painted_set, make_cfg):
    with pytest.raises(ValueError, match=r"ROOTS has 0 folders .*TRAIN 1 data sets; expected one"):
        load_training_records(make_cfg(painted_set, "DETCON.MASKS.ROOTS", ()))


def test_an_unknown_source_of_regions_is_refused(painted_set, make_cfg):
    with pytest.raises(ValueError, match="SOURCE is 'fh'; expected 'files', 'grid' or 'kmeans'"):
        load_training_records(make_cfg(painted_set, "DETCON.MASKS.SOURCE", "fh"))


def test_masks_are_described_by_generator_and_parameters(painted_set, make_cfg, tmp_path):
    assert describe_masks(make_cfg(painted_set)) == "grid size=2"
    assert describe_masks(make_cfg(None, "DETCON.MASKS.SOURCE", "grid", "DETCON.MASKS.GRID", 5)) == "grid size=5"
    other = LabelMapStore.create(tmp_path / "fh", "fh", {"scale": 10.0, "min_size": 5}, "folder:x")
    other.write("x.png", np.zeros((2, 2), np.uint16))
    cfg = make_cfg(painted_set)
    cfg.DETCON.MASKS.ROOTS = (*cfg.DETCON.MASKS.ROOTS, str(tmp_path / "fh"))
    assert describe_masks(cfg) == "grid size=2; fh min_size=5 scale=10.0"


def test_label_maps_of_another_data_set_are_noted(painted_set, make_cfg, tmp_path, caplog):
    moved = tmp_path / "moved"
    shutil.copytree(painted_set.folder, moved)
    cfg = make_cfg(painted_set)
    cfg.DATASETS.TRAIN = (f"folder:{moved}",)
    assert len(load_training_records(cfg)) == 10
    assert f"were made for {painted_set.name} and are used for folder:{moved}" in caplog.text
