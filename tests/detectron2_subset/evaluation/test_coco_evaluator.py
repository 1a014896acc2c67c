"""COCOEvaluator gives the numbers of pycocotools, and the same ones on both backends."""

import json
import math

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.detectron2_subset.coco_dataset import CATEGORIES, NAME, predict, registered, write_dataset
from tests.detectron2_subset.evaluation.processes import Predictions, batches, evaluate_share
from tests.prepared import start_processes

SIX = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path)


def evaluate(backend, json_file, output_dir=None, tasks=None, **options):
    """Evaluate the predictions of every image; ``options``: masks, and which detections of an image are kept."""
    evaluation = backend.get("evaluation")
    with registered(backend, json_file):
        evaluator = evaluation.COCOEvaluator(NAME, tasks=tasks, output_dir=output_dir and str(output_dir))
        return evaluation.inference_on_dataset(Predictions(backend, **options), batches(json_file), evaluator)


def official(json_file, results_file, task):
    """The first six numbers of the summary of pycocotools, in percent."""
    truth = COCO(str(json_file))
    results = [{k: v for k, v in one.items() if task == "bbox" or k != "bbox"} for one in json.loads(results_file.read_text())]
    evaluation = COCOeval(truth, truth.loadRes(results), task)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [100 * value if value >= 0 else math.nan for value in evaluation.stats[:6]]


def flat(results):
    return {f"{task}/{name}": value for task, scores in results.items() for name, value in scores.items()}


def assert_equal_scores(ours, theirs):
    assert list(flat(ours)) == list(flat(theirs))
    np.testing.assert_allclose(list(flat(ours).values()), list(flat(theirs).values()), rtol=0, atol=1e-9)


def test_scores_are_those_of_the_official_summary_over_the_saved_results(backend, dataset, tmp_path):
    results = evaluate(backend, dataset, tmp_path / "out")
    assert list(results) == ["bbox", "segm"]
    for task, scores in results.items():
        assert list(scores) == SIX + [f"AP-{name}" for name in CATEGORIES.values()]
        expected = official(dataset, tmp_path / "out" / "coco_instances_results.json", task)
        np.testing.assert_allclose([scores[name] for name in SIX], expected, rtol=0, atol=1e-9)
        assert expected[1] > expected[0] and 5 < scores["AP"] < 95
        # The AP is the mean over the annotated categories; the others have NaN.
        each = [scores[f"AP-{name}"] for name in CATEGORIES.values()]
        assert math.isnan(each[-1]) and scores["AP"] == pytest.approx(np.mean(each[:-1]))


def test_saved_results_have_the_fields_of_coco_and_the_ids_of_the_json(backend, dataset, tmp_path):
    evaluate(backend, dataset, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    images = torch.load(tmp_path / "out" / "instances_predictions.pth", weights_only=True)
    assert sum(len(image["instances"]) for image in images) == len(results) and images[1]["image_id"] == 10
    assert {one["category_id"] for one in results} <= CATEGORIES.keys()
    assert list(results[0]) == ["image_id", "category_id", "bbox", "score", "segmentation"]
    record, arrays = (values[0] for values in predict(dataset))
    x1, y1, x2, y2 = arrays["boxes"][0]
    assert results[0]["image_id"] == record["image_id"]
    assert results[0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], rel=1e-5)
    assert np.array_equal(coco_mask.decode(results[0]["segmentation"]), arrays["masks"][0])


def test_both_backends_give_equal_scores_log_lines_and_files(subset, real, dataset, tmp_path, log_lines):
    written, lines, results = [], log_lines("detectron2.evaluation.testing"), []
    for backend in (subset, real):
        lines.clear()
        folder = tmp_path / backend.name
        results.append(evaluate(backend, dataset, folder))
        backend.get("evaluation").print_csv_format(results[-1])
        predictions = torch.load(folder / "instances_predictions.pth", weights_only=True)
        written.append((list(lines), json.loads((folder / "coco_instances_results.json").read_text()), predictions))
    assert_equal_scores(*results)
    assert written[0] == written[1] and len(written[0][0]) == 6


def test_both_backends_agree_on_photographs_of_coco(subset, real, shared_dir, tmp_path):
    source = json.loads((shared_dir / "data" / "coco_subset" / "instances.json").read_text())
    source["images"] = source["images"][:20]
    kept = {image["id"] for image in source["images"]}
    source["annotations"] = [one for one in source["annotations"] if one["image_id"] in kept]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(source))
    ours, theirs = (evaluate(backend, path) for backend in (subset, real))
    assert 5 < ours["segm"]["AP"] < 95 and len(ours["bbox"]) == 86
    assert_equal_scores(ours, theirs)


def test_two_processes_together_evaluate_as_one_does(backend, dataset, tmp_path):
    start_processes(evaluate_share, (backend, 2, str(tmp_path)), 2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert second == {}
    assert_equal_scores(first, evaluate(backend, dataset, tmp_path / "alone"))
    files = [(tmp_path / folder / "coco_instances_results.json").read_text() for folder in ("output", "alone")]
    assert files[0] == files[1]


def test_models_without_masks_are_evaluated_on_boxes(backend, dataset):
    assert list(evaluate(backend, dataset, masks=False)) == list(evaluate(backend, dataset, tasks=("bbox",))) == ["bbox"]


@pytest.mark.parametrize(("tasks", "expected"), [(None, ["bbox"]), (("bbox", "segm"), ["bbox", "segm"])])
def test_no_detections_at_all_score_nan(backend, dataset, tmp_path, tasks, expected):
    results = evaluate(backend, dataset, tmp_path / "out", tasks, keep=slice(0))
    assert list(results) == expected
    for scores in results.values():
        assert list(scores) == SIX and all(math.isnan(score) for score in scores.values())
    assert json.loads((tmp_path / "out" / "coco_instances_results.json").read_text()) == []


def test_reset_deletes_the_predictions_and_without_any_there_are_no_results(backend, dataset):
    (batch, *_) = batches(dataset)
    with registered(backend, dataset):
        evaluator = backend.get("evaluation").COCOEvaluator(NAME)
        evaluator.reset()
        evaluator.process(batch, Predictions(backend)(batch))
        evaluator.reset()
        assert evaluator.evaluate() == {}


def test_a_class_that_the_data_set_does_not_have_is_refused(backend, dataset):
    with registered(backend, dataset):
        evaluator = backend.get("evaluation").COCOEvaluator(NAME)
        evaluator.reset()
        (batch, *_) = batches(dataset)
        batch[0]["arrays"]["classes"] += 7
        evaluator.process(batch, Predictions(backend)(batch))
        with pytest.raises(AssertionError, match=r"class.*4"):
            evaluator.evaluate()


def test_a_json_without_annotations_saves_results_and_no_scores(backend, dataset, tmp_path):
    source, bare = json.loads(dataset.read_text()), tmp_path / "bare.json"
    bare.write_text(json.dumps({key: value for key, value in source.items() if key != "annotations"}))
    (batch, *_) = batches(dataset)
    with registered(backend, bare):
        evaluator = backend.get("evaluation").COCOEvaluator(NAME, output_dir=str(tmp_path / "out"))
        results = backend.get("evaluation").inference_on_dataset(Predictions(backend), [batch], evaluator)
    assert results == {} and json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())


def test_what_the_subset_cannot_evaluate_is_named(subset, dataset):
    evaluator = subset.get("evaluation").COCOEvaluator
    with registered(subset, dataset), pytest.raises(NotImplementedError, match=r"keypoints.*install detectron2"):
        evaluator(NAME, tasks=("bbox", "keypoints"))
    with pytest.raises(NotImplementedError, match=r"no json_file.*install detectron2"):
        evaluator("detcon_test_no_json")
    with pytest.raises(ValueError, match="no masks; expected pred_masks"):
        evaluate(subset, dataset, tasks=("bbox", "segm"), masks=False)
