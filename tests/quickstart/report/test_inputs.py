"""Results and detections are read as they are; a detection is right once, for its category, with IoU 0.5."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detcon_d2.quickstart.report.inputs import LabelledImages, Thing, check_inputs, match, quickstart_arms, read_predictions, read_result
from tests.quickstart.fake import validation_paths, write_quickstart


def thing(category: int, left: int, width: int = 10) -> Thing:
    mask = np.zeros((20, 40), bool)
    mask[:10, left : left + width] = True
    return Thing(category, mask, (left, 0, width, 10))


def test_a_detection_is_right_with_its_category_and_iou_of_a_half():
    objects = [thing(1, 0)]
    assert match([thing(1, 3)], objects) == [True]  # 70 of 130 pixels
    assert match([thing(1, 4)], objects) == [False]  # 60 of 140
    assert match([thing(2, 0)], objects) == [False]
    assert match([thing(1, 0)], []) == [False]


def test_an_object_is_found_once_by_the_best_detection():
    assert match([thing(1, 2), thing(1, 0)], [thing(1, 0)]) == [True, False]


def test_a_detection_takes_the_object_that_it_overlaps_most():
    objects = [thing(1, 0, 12), thing(1, 4, 12)]
    assert match([thing(1, 3, 12), thing(1, 0, 12)], objects) == [True, True]


@pytest.fixture
def images(quickstart: Path) -> LabelledImages:
    return LabelledImages(*validation_paths(quickstart))


def predictions(quickstart: Path) -> dict:
    return read_predictions(quickstart / "random/finetune/inference/coco_instances_results.json")


def test_as_many_detections_as_objects_best_first(quickstart, images):
    record = images.records[0]
    many = predictions(quickstart)[record["image_id"]]
    many = [*many, {**many[0], "score": 0.99}, {**many[0], "score": 0.01}]
    found = images.detections(0, many)
    assert len(found) == len(images.objects(0))
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert found[0].score == 0.99


def test_exact_masks_are_right_and_wrong_categories_are_not(quickstart, images):
    by_image = predictions(quickstart)
    for index, record in enumerate(images.records[:4]):
        right = [one.right for one in images.detections(index, by_image[record["image_id"]])]
        assert right == [True] * len(right) if record["image_id"] % 2 else not any(right)


def test_images_come_in_the_order_of_their_names_with_their_objects(images):
    assert [Path(record["file_name"]).name for record in images.records] == [f"{i:06d}.jpg" for i in range(6)]
    assert images.image(0).shape == (48, 48, 3)
    assert sum(map(images.count, images.categories)) == sum(len(images.objects(i)) for i in range(6))


def test_crowds_are_no_objects(quickstart, tmp_path):
    annotations, folder = validation_paths(quickstart)
    content = json.loads(annotations.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["image_id"] == 1)
    crowded = tmp_path / "crowded.json"
    crowded.write_text(json.dumps(content))
    assert LabelledImages(crowded, folder).objects(0) == []


def test_a_figure_that_the_evaluation_lacks_is_nan(quickstart):
    result = read_result(quickstart_arms(quickstart)[0])
    assert result.figure("bbox", "AP") == 21.37
    assert result.iteration == 160 and result.backend == "subset 0.6"
    assert math.isnan(result.figure("bbox", "AP75")) and math.isnan(result.figure("keypoints", "AP"))


@pytest.mark.parametrize("content", ["{", "[]", '{"results": {}}', '{"iteration": 1, "results": {"a": {"segm": {}}}}'])
def test_a_damaged_results_file_is_refused_by_name(content, quickstart, tmp_path):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json: .*expected .*bbox"):
        read_result(replace(quickstart_arms(quickstart)[0], finetune=tmp_path))


@pytest.mark.parametrize("content", ["{", '{"a": 1}', '[{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 1}]'])
def test_damaged_predictions_are_refused_by_name(content, tmp_path):
    path = tmp_path / "coco_instances_results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"coco_instances_results\.json: .*expected a list of COCO results"):
        read_predictions(path)


def test_each_missing_file_is_named_with_what_makes_it(tmp_path):
    folder = write_quickstart(tmp_path)
    check_inputs(folder, quickstart_arms(folder))
    (folder / "detcon_b/pretrain/model_final.pth").unlink()
    (folder / "random/finetune/results.json").unlink()
    with pytest.raises(ValueError) as caught:
        check_inputs(folder, quickstart_arms(folder))
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and "make quickstart continues" in lines[-1]
    assert "model_final.pth, which tools/train_net.py (pretraining) writes" in lines[1]
    assert "random/finetune/results.json, which tools/train_net.py (fine-tuning) writes" in lines[2]


def test_two_arms_of_one_title_are_refused(quickstart):
    first, second = quickstart_arms(quickstart)
    with pytest.raises(ValueError, match="each title once"):
        check_inputs(quickstart, [first, replace(second, title=first.title)])
