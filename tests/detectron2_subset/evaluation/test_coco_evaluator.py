"""COCOEvaluator gives pycocotools' numbers on every backend present, and the same ones on both."""

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.detectron2_subset import coco_dataset
from tests.detectron2_subset.coco_dataset import CATEGORIES, NAME, evaluate_share, predict, register, to_output, write_world

SIX = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


@pytest.fixture
def world(tmp_path, request):
    """The json of a small random data set; whatever backend a test registers it with forgets it afterwards."""
    yield write_world(tmp_path)
    for name in ("backend", "subset", "real"):
        if name in request.fixturenames:
            coco_dataset.forget(request.getfixturevalue(name))


def evaluate(backend, json_file, output_dir=None, img_ids=None, masks=True, keep=slice(None), **kwargs):
    register(backend, json_file)
    evaluator = backend.get("evaluation").COCOEvaluator(NAME, output_dir=output_dir and str(output_dir), **kwargs)
    evaluator.reset()
    for record, arrays in zip(*predict(json_file), strict=True):
        evaluator.process([record], [to_output(backend, record, arrays, masks, keep)])
    return evaluator.evaluate(img_ids=img_ids)


def official(json_file, results_file, task, img_ids):
    """The first six numbers of pycocotools' own summary over some or all (None) images, in percent."""
    truth = COCO(str(json_file))
    results = [{k: v for k, v in one.items() if task == "bbox" or k != "bbox"} for one in json.loads(results_file.read_text())]
    evaluation = COCOeval(truth, truth.loadRes(results), task)
    evaluation.params.imgIds = img_ids or evaluation.params.imgIds
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [100 * value if value >= 0 else math.nan for value in evaluation.stats[:6]]


def flat(results):
    return {f"{task}/{name}": value for task, scores in results.items() for name, value in scores.items()}


@pytest.mark.parametrize("img_ids", [None, [20, 30]])
def test_scores_are_those_of_the_official_summary_over_the_saved_results(backend, world, tmp_path, img_ids):
    results = evaluate(backend, world, tmp_path / "out", img_ids)
    assert list(results) == ["bbox", "segm"]
    for task, scores in results.items():
        assert list(scores) == SIX + [f"AP-{name}" for name in CATEGORIES.values()]
        expected = official(world, tmp_path / "out" / "coco_instances_results.json", task, img_ids)
        np.testing.assert_allclose([scores[name] for name in SIX], expected, rtol=0, atol=1e-9)
        assert expected[1] > expected[0]
        assert 5 < scores["AP"] < 95


def test_the_ap_is_the_mean_over_annotated_categories_and_nan_marks_the_others(backend, world):
    for scores in evaluate(backend, world).values():
        each = [scores[f"AP-{name}"] for name in CATEGORIES.values()]
        assert math.isnan(each[-1])
        assert scores["AP"] == pytest.approx(np.mean(each[:-1]))


@pytest.mark.parametrize("kwargs", [{}, {"max_dets_per_image": 3}, {"max_dets_per_image": 200}, {"img_ids": [20, 30]}, {"tasks": ["segm"]}])
def test_both_backends_give_equal_scores(subset, real, world, kwargs):
    ours, theirs = (evaluate(backend, world, **kwargs) for backend in (subset, real))
    assert list(flat(ours)) == list(flat(theirs))
    np.testing.assert_allclose(list(flat(ours).values()), list(flat(theirs).values()), rtol=0, atol=1e-9)


def test_both_backends_agree_on_photographs_of_coco(subset, real, shared_dir, tmp_path, request):
    request.addfinalizer(lambda: [coco_dataset.forget(backend) for backend in (subset, real)])
    source = json.loads((shared_dir / "data" / "coco_subset" / "instances.json").read_text())
    source["images"] = source["images"][:20]
    kept = {image["id"] for image in source["images"]}
    source["annotations"] = [one for one in source["annotations"] if one["image_id"] in kept]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(source))
    ours, theirs = (evaluate(backend, path, tmp_path / backend.name) for backend in (subset, real))
    assert 5 < ours["segm"]["AP"] < 95
    assert len(ours["bbox"]) == 86
    np.testing.assert_allclose(list(flat(ours).values()), list(flat(theirs).values()), rtol=0, atol=1e-9)


def test_both_backends_log_the_same_csv_lines_and_save_the_same_files(subset, real, world, tmp_path, log_lines):
    written = {}
    lines = log_lines("detectron2.evaluation.testing")
    for backend in (subset, real):
        lines.clear()
        backend.get("evaluation").print_csv_format(evaluate(backend, world, tmp_path / backend.name))
        folder = tmp_path / backend.name
        predictions = torch.load(folder / "instances_predictions.pth", weights_only=True)
        written[backend.name] = list(lines), json.loads((folder / "coco_instances_results.json").read_text()), predictions
    assert len(written["subset"][0]) == 6
    assert written["subset"] == written["detectron2"]


def test_results_have_coco_s_fields_and_the_ids_of_the_json(backend, world, tmp_path):
    evaluate(backend, world, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {one["category_id"] for one in results} <= CATEGORIES.keys()
    images = torch.load(tmp_path / "out" / "instances_predictions.pth", weights_only=True)
    assert sum(len(image["instances"]) for image in images) == len(results)
    assert images[0]["image_id"] == 10
    assert list(results[0]) == ["image_id", "category_id", "bbox", "score", "segmentation"]
    record, arrays = (values[0] for values in predict(world))
    x1, y1, x2, y2 = arrays["boxes"][0]
    assert results[0]["image_id"] == record["image_id"]
    assert results[0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], rel=1e-5)
    assert np.array_equal(coco_mask.decode(results[0]["segmentation"]), arrays["masks"][0])


def test_two_processes_together_evaluate_as_one_does(backend, world, tmp_path):
    mp.spawn(evaluate_share, (backend, 2, str(tmp_path)), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    alone = evaluate(backend, world, tmp_path / "alone")
    assert second == {}
    assert list(flat(first)) == list(flat(alone))
    np.testing.assert_allclose(list(flat(first).values()), list(flat(alone).values()), rtol=0, atol=1e-9)
    files = [(tmp_path / folder / "coco_instances_results.json").read_text() for folder in ("output", "alone")]
    assert files[0] == files[1]


def test_a_process_on_its_own_evaluates_what_it_has(backend, world):
    assert flat(evaluate(backend, world, distributed=False)) == pytest.approx(flat(evaluate(backend, world)), nan_ok=True)


def test_models_without_masks_are_scored_on_boxes(backend, world):
    assert list(evaluate(backend, world, masks=False)) == ["bbox"]
    assert list(evaluate(backend, world, tasks=("bbox",))) == ["bbox"]


@pytest.mark.parametrize(("tasks", "expected"), [(None, ["bbox"]), (("bbox", "segm"), ["bbox", "segm"])])
def test_no_detections_at_all_score_nan(backend, world, tmp_path, tasks, expected):
    results = evaluate(backend, world, tmp_path / "out", keep=slice(0), tasks=tasks)
    assert list(results) == expected
    for scores in results.values():
        assert list(scores) == SIX
        assert all(math.isnan(score) for score in scores.values())
    assert json.loads((tmp_path / "out" / "coco_instances_results.json").read_text()) == []


def test_no_outputs_at_all_give_no_results(backend, world):
    register(backend, world)
    evaluator = backend.get("evaluation").COCOEvaluator(NAME)
    evaluator.reset()
    evaluator.process([{"image_id": 10}], [{}])
    assert evaluator.evaluate() == {}


def test_reset_forgets_what_was_processed(backend, world):
    register(backend, world)
    evaluator = backend.get("evaluation").COCOEvaluator(NAME)
    evaluator.reset()
    record, arrays = (values[0] for values in predict(world))
    evaluator.process([record], [to_output(backend, record, arrays)])
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_a_class_that_the_data_set_lacks_is_refused(backend, world):
    register(backend, world)
    evaluator = backend.get("evaluation").COCOEvaluator(NAME)
    evaluator.reset()
    record, arrays = (values[0] for values in predict(world))
    evaluator.process([record], [to_output(backend, record, arrays | {"classes": arrays["classes"] + 7})])
    with pytest.raises(AssertionError, match=r"class.*4"):
        evaluator.evaluate()


def test_a_json_without_annotations_saves_results_and_scores_nothing(backend, world, tmp_path):
    source = json.loads(world.read_text())
    bare = tmp_path / "bare.json"
    register(backend, world)
    inputs, arrays = predict(world)
    bare.write_text(json.dumps({key: value for key, value in source.items() if key != "annotations"}))
    register(backend, bare)
    evaluator = backend.get("evaluation").COCOEvaluator(NAME, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process(inputs[:1], [to_output(backend, inputs[0], arrays[0])])
    assert evaluator.evaluate() == {}
    assert json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())


def test_one_category_alone_gets_no_score_of_its_own(backend, tmp_path, request):
    request.addfinalizer(lambda: coco_dataset.forget(backend))
    source = json.loads(write_world(tmp_path).read_text())
    for annotation in source["annotations"]:
        annotation["category_id"] = 3
    path = tmp_path / "one.json"
    path.write_text(json.dumps(source | {"categories": source["categories"][:1]}))
    assert list(evaluate(backend, path)["bbox"]) == SIX


def test_tasks_outside_the_subset_say_what_to_do(subset, world):
    register(subset, world)
    with pytest.raises(NotImplementedError, match=r"keypoints.*install detectron2"):
        subset.get("evaluation").COCOEvaluator(NAME, tasks=("bbox", "keypoints"))


def test_masks_asked_of_a_model_without_masks_are_an_error(subset, world):
    with pytest.raises(ValueError, match="no masks; expected pred_masks"):
        evaluate(subset, world, tasks=("bbox", "segm"), masks=False)


def records(backend):
    mode = backend.get("structures").BoxMode
    whole = coco_mask.encode(np.asfortranarray(np.ones((60, 80), np.uint8)))
    image = {"height": 60, "width": 80}
    polygon = {"bbox": [3, 4, 20, 30], "bbox_mode": mode.XYXY_ABS, "category_id": 1, "segmentation": [[3, 4, 20, 4, 20, 30.5, 3, 30]]}
    crowd = {"bbox": [3, 4, 20, 30], "bbox_mode": mode.XYWH_ABS, "category_id": 0, "iscrowd": 1, "segmentation": whole}
    plain = {"bbox": [1.23456, 4, 20, 30.7], "bbox_mode": mode.XYWH_ABS, "category_id": np.int64(0)}
    return [
        image | {"file_name": "a.jpg", "image_id": 7, "annotations": [polygon, crowd, plain]},
        image | {"file_name": "b.jpg", "image_id": 9},
    ]


@pytest.fixture
def without_json(backend):
    """Registers the records as NAME, with metadata and no json."""

    def add(**metadata):
        coco_dataset.forget(backend)
        backend.get("data").DatasetCatalog.register(NAME, lambda: copy.deepcopy(records(backend)))
        backend.get("data").MetadataCatalog.get(NAME).set(thing_classes=["u", "v"], **metadata)

    yield add
    coco_dataset.forget(backend)


def test_a_data_set_without_json_is_converted_in_the_output_folder(backend, without_json, tmp_path):
    without_json(thing_dataset_id_to_contiguous_id={10: 0, 20: 1})
    backend.get("evaluation").COCOEvaluator(NAME, output_dir=str(tmp_path / "out"))
    source = json.loads((tmp_path / "out" / f"{NAME}_coco_format.json").read_text())
    assert source["images"] == [
        {"id": 7, "width": 80, "height": 60, "file_name": "a.jpg"},
        {"id": 9, "width": 80, "height": 60, "file_name": "b.jpg"},
    ]
    assert source["categories"] == [{"id": 10, "name": "u"}, {"id": 20, "name": "v"}]
    common = [{key: one[key] for key in ("id", "image_id", "category_id", "iscrowd", "bbox", "area")} for one in source["annotations"]]
    names = ("id", "image_id", "category_id", "iscrowd", "bbox", "area")
    expected = [
        (1, 7, 20, 0, [3, 4, 17, 26], 446.25),
        (2, 7, 10, 1, [3, 4, 20, 30], 4800.0),
        (3, 7, 10, 0, [1.235, 4, 20, 30.7], pytest.approx(614)),
    ]
    assert common == [dict(zip(names, one, strict=True)) for one in expected]
    assert source["annotations"][0]["segmentation"] == [[3, 4, 20, 4, 20, 30.5, 3, 30]]
    assert coco_mask.area(source["annotations"][1]["segmentation"]) == 4800
    assert "segmentation" not in source["annotations"][2]


def test_predictions_are_scored_against_the_converted_records(backend, without_json, tmp_path):
    without_json()
    evaluator = backend.get("evaluation").COCOEvaluator(NAME, output_dir=str(tmp_path))
    evaluator.reset()
    arrays = {"boxes": np.array([[1.23456, 4, 21.23456, 34.7]]), "scores": np.array([0.5]), "classes": np.array([0])}
    record = records(backend)[0]
    evaluator.process([record], [to_output(backend, record, arrays, masks=False)])
    scores = evaluator.evaluate()["bbox"]
    assert scores["AP-u"] == pytest.approx(100)
    assert scores["AP-v"] == 0


def test_a_conversion_is_kept_unless_told(backend, without_json, tmp_path):
    path = tmp_path / f"{NAME}_coco_format.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    without_json()
    backend.get("evaluation").COCOEvaluator(NAME, output_dir=str(tmp_path))
    assert json.loads(path.read_text())["images"] == []
    without_json()
    backend.get("evaluation").COCOEvaluator(NAME, output_dir=str(tmp_path), allow_cached_coco=False)
    assert len(json.loads(path.read_text())["images"]) == 2


def test_a_conversion_needs_a_place(backend, without_json):
    without_json()
    with pytest.raises(ValueError, match="output_dir"):
        backend.get("evaluation").COCOEvaluator(NAME)
