"""One look before the first iteration: classes by name, masks, crowds, files and sizes, for training and test sets alike."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detcon_d2 import d2
from detcon_d2.engine import load_config, setup_finetuning
from detcon_d2.engine.finetune.data import build_evaluation_loader, load_detection_records
from detcon_d2.engine.finetune.evaluate import evaluate
from detcon_d2.engine.finetune.look import look_at_data
from detcon_d2.engine.main import main
from detcon_d2.io.segmentations import rle_runs
from tests.annotated import HEIGHT, OBJECTS, WIDTH, each, write_coco, write_voc, write_yolo
from tests.detectors import BASE, arguments, detector_opts


def config(tmp_path, **overrides):
    values = {"MODEL__ROI_HEADS__NUM_CLASSES": 2, "INPUT__MASK_FORMAT": "polygon", "OUTPUT_DIR": tmp_path / "run"}
    return load_config(BASE, detector_opts(tmp_path, tmp_path / "run", **values | overrides))


def look(tmp_path, train=(), test=(), classes=(), resumed=False, **overrides):
    return look_at_data(config(tmp_path, **overrides), train, test, classes, resumed)


def other_order(content):
    content["categories"] = [{"id": 3 - one["id"], "name": one["name"]} for one in content["categories"]]
    each(lambda one: one.update(category_id=3 - one["category_id"]))(content)


class Oracle(torch.nn.Module):
    """Detects each object of ``OBJECTS`` with the class numbers of the training set."""

    def forward(self, inputs):
        outputs = []
        for one in inputs:
            objects = OBJECTS[int(re.search(r"p(\d)\.", one["file_name"]).group(1))]
            instances = d2.Instances((one["height"], one["width"]))
            instances.pred_boxes = d2.Boxes(torch.tensor([[x, y, x + w, y + h] for _, x, y, w, h in objects], dtype=torch.float32))
            instances.pred_classes = torch.tensor([category for category, *_ in objects])
            instances.scores = torch.full((len(objects),), 0.9)
            outputs.append({"instances": instances})
        return outputs


def test_a_test_set_that_numbers_its_classes_differently_is_matched_by_name(tmp_path):
    train, test = write_coco(tmp_path), write_coco(tmp_path, other_order, name="val.json")
    cfg = config(tmp_path, DATASETS__TRAIN=f'("{train}",)', DATASETS__TEST=f'("{train}","{test}")', MODEL__MASK_ON=False)
    lines = look_at_data(cfg, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert sum("matched by name" in line for line in lines) == 1
    for metrics in evaluate(cfg, Oracle()).values():
        for metric in ("AP", "AP-bolt", "AP-nut"):
            assert metrics["bbox"][metric] == pytest.approx(100)


@pytest.mark.parametrize("write", [write_voc, write_yolo])
def test_boxes_of_other_formats_are_evaluated(write, tmp_path):
    spec = write(tmp_path)
    cfg = config(tmp_path, DATASETS__TRAIN=f'("{spec}",)', DATASETS__TEST=f'("{spec}",)', MODEL__MASK_ON=False)
    look_at_data(cfg, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert evaluate(cfg, Oracle())[spec]["bbox"]["AP"] == pytest.approx(100)


def test_a_split_without_one_of_the_classes_of_a_format_that_lists_none_is_evaluated(tmp_path):
    spec = write_voc(tmp_path / "train")
    other = write_voc(tmp_path / "val")
    for path in (tmp_path / "val" / "Annotations").glob("*.xml"):
        path.write_text(re.sub("<object><name>bolt.*?</object>", "", path.read_text()))
    look(tmp_path, [spec], [other], MODEL__MASK_ON=False)
    assert d2.MetadataCatalog.get(other).thing_classes == ["bolt", "nut"]
    with pytest.raises(ValueError, match=r"are not those of .*only in the first: 1 \(bolt\)"):
        look(tmp_path, [other], [spec], MODEL__MASK_ON=False)


@pytest.mark.parametrize("place", ["test set", "checkpoint of a resumed run", "checkpoint to evaluate"])
def test_other_classes_are_refused_with_both_lists(place, tmp_path):
    train = write_coco(tmp_path)
    more = write_coco(tmp_path, lambda content: content["categories"].append({"id": 3, "name": "washer"}), name="val.json")
    with pytest.raises(ValueError, match=r"found (2|3) \(bolt, nut.*expected (2|3) \(bolt, nut.*1 \(washer\)"):
        if place == "test set":
            look(tmp_path, [train], [more])
        elif place == "checkpoint of a resumed run":
            look(tmp_path, [train], [], ["bolt", "nut", "washer"], resumed=True)
        else:
            look(tmp_path, [], [train], ["bolt", "nut", "washer"], resumed=True)


def test_classes_of_a_checkpoint_give_the_order_and_others_only_a_line(tmp_path):
    spec = write_coco(tmp_path)
    look(tmp_path, [spec], [], ["nut", "bolt"])
    assert d2.MetadataCatalog.get(spec).thing_classes == ["nut", "bolt"]
    found = [one["category_id"] for record in d2.DatasetCatalog.get(spec) for one in record["annotations"]]
    assert found == [1 - category for objects in OBJECTS for category, *_ in objects]
    lines = look(tmp_path, [spec], [], ["cat", "dog"])
    assert any("detects other classes (cat, dog)" in line for line in lines)
    assert d2.MetadataCatalog.get(spec).thing_classes == ["bolt", "nut"]


@pytest.mark.parametrize("change", [lambda one: one.pop("segmentation"), lambda one: one.update(segmentation=[])])
@pytest.mark.parametrize("split", ["train", "test"])
def test_boxes_without_masks_need_a_detector_of_boxes(split, change, tmp_path):
    spec = write_coco(tmp_path, each(change))
    with pytest.raises(ValueError, match=r"5 of 5 annotations have no mask; set MODEL\.MASK_ON False") as refused:
        look(tmp_path, **{split: [spec]})
    assert "\n" not in str(refused.value)
    assert look(tmp_path, **{split: [spec]}, MODEL__MASK_ON=False)


def rle(content):
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        mask = np.zeros((64, 96), np.uint8)
        mask[y : y + h, x : x + w] = 1
        changes = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F")])))
        annotation["segmentation"] = {"size": [64, 96], "counts": np.diff(changes, prepend=0, append=mask.size).tolist()}


def test_rle_needs_bitmasks_and_crowds_are_nothing_to_train_on(tmp_path):
    spec = write_coco(tmp_path, rle)
    with pytest.raises(ValueError, match=r"5 of 5 masks are RLE, but INPUT\.MASK_FORMAT is polygon; set INPUT\.MASK_FORMAT bitmask"):
        look(tmp_path, [spec])
    assert look(tmp_path, [spec], INPUT__MASK_FORMAT="bitmask") and look(tmp_path, [], [spec])
    crowds = write_coco(tmp_path, each(lambda one: one.update(iscrowd=1)))
    with pytest.raises(ValueError, match="all 5 annotations are crowds"):
        look(tmp_path, [crowds])
    nothing = write_coco(tmp_path, lambda content: content.update(annotations=None))
    with pytest.raises(ValueError, match='found no annotations, as there is no list "annotations"; expected objects to train on'):
        look(tmp_path, [nothing])


def test_only_checked_segmentations_reach_the_detector(tmp_path):
    def change(content):
        content["annotations"][0]["segmentation"].append([-1e9, -1e9, 1e9, -1e9, 1e9, 1e9])
        content["annotations"][1]["segmentation"] = [[float("nan")] * 6]
        content["annotations"][2]["segmentation"] = [str(value) for value in content["annotations"][2]["segmentation"][0]]

    spec = write_coco(tmp_path, change)
    cfg = config(tmp_path, DETCON__DATA__MAX_LEFT_OUT=0.5, DATASETS__TRAIN=f'("{spec}",)', DATASETS__TEST=f'("{spec}",)')
    lines = look_at_data(cfg, [spec], [spec])
    assert any("left out: 1 annotation, its mask cannot be read" in line for line in lines)
    for annotations in (
        [one for record in load_detection_records(cfg) for one in record["annotations"]],
        json.loads(Path(d2.MetadataCatalog.get(spec).json_file).read_text())["annotations"],
    ):
        assert len(annotations) == 4
        numbers = [value for one in annotations for polygon in one["segmentation"] for value in polygon]
        assert all(isinstance(value, int | float) and -96 <= value <= 192 for value in numbers)
    for record in load_detection_records(cfg):
        d2.DatasetMapper(cfg, True)(record)
    assert len(list(build_evaluation_loader(cfg, spec))) == 3


def test_a_compressed_rle_that_ends_early_reaches_neither_training_nor_evaluation(tmp_path):
    """pycocotools would take pixels from memory that was never written."""
    cut = {"size": [64, 96], "counts": "1"}
    spec = write_coco(tmp_path, lambda content: (rle(content), content["annotations"][3].update(segmentation=cut)))
    cfg = config(tmp_path, DETCON__DATA__MAX_LEFT_OUT=0.5, DATASETS__TRAIN=f'("{spec}",)', INPUT__MASK_FORMAT="bitmask")
    lines = look_at_data(cfg, [spec], [spec])
    assert any("left out: 1 annotation, its mask cannot be read" in line for line in lines)
    evaluated = json.loads(Path(d2.MetadataCatalog.get(spec).json_file).read_text())["annotations"]
    trained = [one for record in load_detection_records(cfg) for one in record["annotations"]]
    assert len(evaluated) == len(trained) == 4 and cut not in [one["segmentation"] for one in evaluated + trained]


def test_images_that_are_not_there_are_named_before_the_first_iteration(tmp_path):
    spec = write_coco(tmp_path)
    (tmp_path / "images" / "p1.png").unlink()
    with pytest.raises(ValueError, match=r"1 image, the file is not there \(first: image p1\.png"):
        look(tmp_path, [], [spec])
    assert look(tmp_path, [], [spec], DETCON__ON_BAD_IMAGE="skip")


def test_data_sets_of_the_catalog_are_checked_too(tmp_path):
    spec = write_coco(tmp_path, lambda content: content["annotations"][0].update(segmentation=[[float("nan")] * 6]))
    json_file, images = spec.removeprefix("coco:").split(",")
    name = f"own_{tmp_path.name}"
    d2.register_coco_instances(name, {}, json_file, images)
    before = d2.DatasetCatalog.get(name)
    for _ in range(2):
        lines = look(tmp_path, [name], [name], DETCON__DATA__MAX_LEFT_OUT=0.3)
        assert any("its mask cannot be read" in line for line in lines)
        after = d2.DatasetCatalog.get(name)
        assert [len(record["annotations"]) for record in after] == [1, 1, 2]
        assert after[2] == before[2] and all(one["bbox_mode"] == d2.BoxMode.XYWH_ABS for one in after[2]["annotations"])
    with pytest.raises(ValueError, match=r"more than the share 0\.1"):
        look(tmp_path, [name])


def test_setup_logs_a_summary_of_all_sets_and_refuses_a_test_set_before_training(tmp_path):
    train = write_coco(tmp_path, each(lambda one: one.pop("iscrowd")))
    opts = {"MODEL__ROI_HEADS__NUM_CLASSES": 2, "DATASETS__TRAIN": f'("{train}",)', "INPUT__MASK_FORMAT": "polygon"}
    _, records = setup_finetuning(arguments(detector_opts(tmp_path, tmp_path / "run", DATASETS__TEST=f'("{train}",)', **opts)))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "3 images (0 without annotations), 5 annotations (0 crowds, 0 without mask), 2 categories (bolt, nut)" in log
    assert "repaired: 5 annotations, its iscrowd is absent" in log and len(records) == 3
    with pytest.raises(ValueError, match="'coco_2017_vall' is not a data set"):
        setup_finetuning(arguments(detector_opts(tmp_path, tmp_path / "run", DATASETS__TEST='("coco_2017_vall",)', **opts)))


def test_a_detector_of_boxes_trains_and_is_evaluated_without_area_iscrowd_or_masks(tmp_path):
    def bare(one):
        for key in ("area", "iscrowd", "segmentation"):
            one.pop(key)

    spec = write_coco(tmp_path, each(bare))
    opts = {"MODEL__ROI_HEADS__NUM_CLASSES": 2, "MODEL__MASK_ON": False, "SOLVER__MAX_ITER": 2, "SOLVER__IMS_PER_BATCH": 2}
    opts |= {"DATASETS__TRAIN": f'("{spec}",)', "DATASETS__TEST": f'("{spec}",)'}
    run = tmp_path / "run"
    main(arguments(detector_opts(tmp_path, run, **opts)))
    assert set(json.loads((run / "results.json").read_text())["results"][spec]) == {"bbox"}
    # The checkpoint knows its classes: another order is matched, other names are refused.
    weights = {"MODEL__WEIGHTS": run / "model_final.pth"}
    swapped = write_coco(tmp_path, lambda content: (each(bare)(content), other_order(content)), name="swapped.json")
    again = opts | weights | {"DATASETS__TEST": f'("{swapped}",)'}
    main(arguments(detector_opts(tmp_path, tmp_path / "again", **again), eval_only=True))
    results = [json.loads((folder / "results.json").read_text())["results"] for folder in (run, tmp_path / "again")]
    assert results[0][spec] == results[1][swapped]
    renamed = write_coco(tmp_path, lambda content: content["categories"][0].update(name="screw"), name="renamed.json")
    with pytest.raises(SystemExit):
        main(arguments(detector_opts(tmp_path, tmp_path / "no", **again | {"DATASETS__TEST": f'("{renamed}",)'}), eval_only=True))


def test_a_correct_json_gives_the_records_of_the_backends_own_loader(shared_dir, tmp_path):
    json_file, images = shared_dir / "data" / "coco_subset" / "instances.json", shared_dir / "data" / "coco_subset" / "images"
    spec = f"coco:{json_file},{images}"
    (line, *odd) = look(tmp_path, [], [spec])
    assert "80 categories" in line and all("looks wrong: " in one for one in odd), odd
    name = f"plain_{tmp_path.name}"
    d2.register_coco_instances(name, {}, str(json_file), str(images))
    found, expected = ([_with_runs(record) for record in d2.DatasetCatalog.get(one)] for one in (spec, name))
    assert found == expected
    assert d2.MetadataCatalog.get(spec).thing_classes == d2.MetadataCatalog.get(name).thing_classes
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    contents = [json.loads(Path(path).read_text())["annotations"] for path in (d2.MetadataCatalog.get(spec).json_file, json_file)]
    first, second = (sorted([one[key] for key in keys] for one in annotations) for annotations in contents)
    assert first == second


def without_sizes(content):
    content["images"] = [{key: one[key] for key in ("id", "file_name")} for one in content["images"]]


@pytest.mark.parametrize("write", [write_yolo, lambda root: write_coco(root, without_sizes)], ids=["yolo", "coco"])
def test_the_look_has_the_limit_of_pixels_of_the_run(tmp_path, monkeypatch, write):
    spec = write(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT // 3)
    with pytest.raises(ValueError, match=r"DETCON\.DATA\.MAX_PIXELS"):
        look(tmp_path, [spec], MODEL__MASK_ON=False)
    look(tmp_path, [spec], MODEL__MASK_ON=False, DETCON__DATA__MAX_PIXELS=WIDTH * HEIGHT)


def _with_runs(record):
    """RLE may be bytes or text."""
    for annotation in record["annotations"]:
        mask = annotation["segmentation"]
        if isinstance(mask, dict):
            annotation["segmentation"] = rle_runs(mask["counts"]).tolist()
    return record
