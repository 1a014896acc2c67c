"""Images become images with detections and COCO results. Unreadable images are named, and only change the exit code."""

import json
import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from detcon_d2 import d2
from detcon_d2.checkpoint import load_checkpoint_file
from detcon_d2.cli.predict import main
from detcon_d2.engine import load_config
from detcon_d2.engine.finetune import predict as module
from detcon_d2.engine.finetune.predict import Predictor, draw_detections, find_categories, find_images, predict
from detcon_d2.io.images import Reading
from tests.detectors import BASE, detector_opts
from tests.engine.runs import finetuner


@pytest.fixture(scope="module")
def detector(shapes, tmp_path_factory) -> Path:
    """Output of a fine-tuning run of one iteration: config.yaml and model_final.pth."""
    folder = tmp_path_factory.mktemp("detector")
    finetuner(detector_opts(shapes, folder, SOLVER__MAX_ITER=1, DATASETS__TEST="()")).train()
    return folder


def predict_tool(*flags: object) -> int:
    return main([str(flag) for flag in flags])


def flags(detector: Path, output: Path) -> list[object]:
    return [f"--config-file={detector}/config.yaml", f"--weights={detector}/model_final.pth", f"--output={output}", "--score-threshold=0.0"]


def test_a_folder_becomes_pictures_and_coco_results_with_a_listing(shapes, detector, tmp_path, run_tool):
    assert run_tool("predict.py", shapes / "images" / "val", *flags(detector, tmp_path)).returncode == 0
    listing = json.loads((tmp_path / "images.json").read_text())
    assert [(image["id"], Path(image["file_name"]).name, image["width"]) for image in listing][:2] == [
        (1, "000000.jpg", 64),
        (2, "000001.jpg", 64),
    ]
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert {result["image_id"] for result in found} <= {1, 2, 3, 4} and len(found) > 0
    assert {result["category_id"] for result in found} <= set(range(1, 9))
    assert all(coco_mask.decode(result["segmentation"]).shape == (64, 64) for result in found)
    pictures = sorted((tmp_path / "pictures" / "val").iterdir())
    assert [picture.name for picture in pictures] == [f"{index:06d}.jpg" for index in range(4)]
    drawn, plain = (np.asarray(Image.open(path), dtype=int) for path in (pictures[0], shapes / "images" / "val" / "000000.jpg"))
    assert drawn.shape == plain.shape and np.abs(drawn - plain).max() > 50


def test_a_broken_image_is_named_and_skipped(shapes, detector, tmp_path, run_tool):
    (tmp_path / "broken.png").write_bytes(b"no image")
    good = shapes / "images" / "val" / "000000.jpg"
    command = ["predict.py", tmp_path / "broken.png", good, *flags(detector, tmp_path / "out")]
    done = run_tool(*command)
    assert done.returncode == 1 and "1 of 2 images could not be read" in done.stderr and "broken.png" in done.stderr
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())) == 1
    assert run_tool(*command, "--skip-bad").returncode == 0


@pytest.mark.parametrize(
    ("path", "more", "message"),
    [
        ("nowhere.jpg", [], "neither an image nor a folder"),
        (".", [], "expected images"),
        (BASE, ["--opts", "NOT.A.KEY", "1"], "Unknown config key"),
        (BASE, ["--weights=backbone.pth"], "not a pretrained backbone"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(detector, tmp_path, monkeypatch, run_tool, path, more, message):
    monkeypatch.chdir(tmp_path)
    if "backbone" in message:
        torch.save({"model": {"backbone.bottom_up.stem.conv1.weight": torch.zeros(8, 3, 7, 7)}}, "backbone.pth")
    done = run_tool("predict.py", path, *flags(detector, tmp_path / "out"), *more)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_the_predictor_is_the_evaluation_on_one_image(shapes, detector):
    """The same detections as the model gives for the record that the test loader would make."""
    cfg = load_config(str(detector / "config.yaml"), ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"])
    predictor = Predictor(cfg, str(detector / "model_final.pth"))
    path = shapes / "images" / "val" / "000001.jpg"
    record = d2.DatasetMapper(cfg, False)({"file_name": str(path), "image_id": 1, "height": 64, "width": 64})
    with torch.no_grad():
        expected = predictor.model([record])[0]["instances"]
    found = predictor(d2.detection_utils.read_image(str(path), "RGB"))
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(found.scores, expected.scores)


def instances(height: int = 20, width: int = 30) -> "d2.Instances":
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 2:8, 3:9] = masks[1, 10:15, 20:28] = True
    fields = {"pred_boxes": d2.Boxes(torch.tensor([[3.0, 2, 9, 8], [20, 10, 28, 15]])), "scores": torch.tensor([0.9, 0.4])}
    return d2.Instances((height, width), pred_classes=torch.tensor([1, 0]), pred_masks=masks, **fields)


def fake(*found) -> Mock:
    """A predictor that returns, or raises, these one after the other."""
    return Mock(side_effect=found, class_names=["a", "b"], category_ids=[11, 22], reading=Reading())


def test_coco_results_have_the_data_sets_ids_and_boxes_by_width_and_height(shapes, tmp_path):
    predictor = fake(instances(64, 64))
    predict(predictor, {"one.jpg": shapes / "images" / "val" / "000000.jpg"}, tmp_path)
    first, second = json.loads((tmp_path / "predictions.json").read_text())
    assert (first["image_id"], first["category_id"], first["bbox"]) == (1, 22, [3.0, 2.0, 6.0, 6.0])
    assert second["score"] == pytest.approx(0.4) and coco_mask.area(second["segmentation"]) == 40


def test_masks_and_boxes_are_drawn_where_they_are_and_nowhere_else():
    image = np.full((20, 30, 3), 200, dtype=np.uint8)
    drawn = draw_detections(image, instances(), ["a", "b"])
    assert (drawn[4:6, 4:6] != 200).any() and (drawn[18:, :2] == 200).all()
    assert (image == 200).all()
    none = instances()[instances().scores > 1]
    assert draw_detections(image, none, ["a", "b"]) is image


def test_categories_come_from_the_checkpoint_then_the_catalog_then_numbers(shapes, detector):
    cfg = load_config(BASE, detector_opts(shapes, detector, DATASETS__TEST='("nobody_knows",)'))
    names, ids = find_categories(cfg, load_checkpoint_file(detector / "model_final.pth")["metadata"])
    assert names[:2] == ["disc", "ring"] and ids == list(range(1, 9))
    assert find_categories(cfg, {"classes": ["a", "b"], "category_ids": []}) == (["a", "b"], [0, 1])
    assert find_categories(cfg, None) == ([f"class {i}" for i in range(8)], list(range(8)))
    d2.MetadataCatalog.get("eight").set(thing_classes=list("abcdefgh"), thing_dataset_id_to_contiguous_id={10 - i: i for i in range(8)})
    d2.DatasetCatalog.register("eight", list)
    cfg.DATASETS.TEST = ("eight",)
    assert find_categories(cfg, None) == (list("abcdefgh"), list(range(10, 2, -1)))
    d2.DatasetCatalog.remove("eight")


def test_two_images_of_one_name_are_refused(shapes):
    image = shapes / "images" / "val" / "000000.jpg"
    assert list(find_images([str(image)])) == ["000000.jpg"]
    with pytest.raises(ValueError, match=r"would get the same name, 000000\.jpg"):
        find_images([str(image), str(shapes / "images" / "train" / "000000.jpg")])


def lists(folder: Path) -> tuple[list[dict], list[dict]]:
    return tuple(json.loads((folder / f"{name}.json").read_text()) for name in ("images", "predictions"))


def test_thin_images_and_odd_names_are_predicted_as_others_are(detector, tmp_path, run_tool):
    names = {
        "strip.png": (4000, 3),
        "dot.png": (1, 1),
        "line.png": (5000, 1),
        "a.png": (9, 9),
        "a.png.jpg": (8, 8),
        "l" * 251 + ".png": (7, 7),
    }
    names |= {os.fsdecode(b"n\x80.png"): (6, 6), "new\nline.png": (5, 5)}
    (tmp_path / "pics").mkdir()
    for name, size in names.items():
        Image.new("RGB", size, (200, 9, 9)).save(tmp_path / "pics" / name, Path(name).suffix[1:].replace("jpg", "jpeg"))
    done = run_tool("predict.py", tmp_path / "pics", *flags(detector, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    listing, _ = lists(tmp_path / "out")
    assert {Path(image["file_name"]).name: (image["width"], image["height"]) for image in listing} == names
    pictures = [tmp_path / "out" / image["picture"] for image in listing]
    assert len(set(pictures)) == len(names)
    for image, picture in zip(listing, pictures, strict=True):
        assert Image.open(picture).size == (image["width"], image["height"])


def test_an_image_that_fails_does_not_lose_the_others(shapes, tmp_path):
    image = shapes / "images" / "val" / "000000.jpg"
    images = {f"{name}.jpg": image for name in "abc"} | {"d\x1b.jpg": tmp_path / "gone\x1b.jpg"}
    bad = predict(fake(instances(64, 64), RuntimeError("out of\nmemory"), instances(64, 64)), images, tmp_path / "out")
    listing, found = lists(tmp_path / "out")
    assert [one["id"] for one in listing] == [1, 3] and {one["image_id"] for one in found} == {1, 3}
    assert len(bad) == 2 and all(line.isprintable() for line in bad) and "out of" in bad[0] and "gone" in bad[1]


def test_the_picture_of_an_image_that_no_jpeg_can_hold_is_smaller(tmp_path):
    Image.new("RGB", (65501, 2)).save(tmp_path / "long.png")
    found = instances(2, 65501)
    assert predict(fake(found[found.scores > 1]), {"long.png": tmp_path / "long.png"}, tmp_path / "out") == []
    (image,), _ = lists(tmp_path / "out")
    assert image["width"] == 65501 and Image.open(tmp_path / "out" / image["picture"]).size == (65500, 2)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_a_run_that_is_stopped_leaves_the_results_that_it_has(shapes, tmp_path, stop):
    image = shapes / "images" / "val" / "000000.jpg"
    with pytest.raises(stop):
        predict(fake(instances(64, 64), stop), {"a.jpg": image, "b.jpg": image}, tmp_path)
    assert [one["id"] for one in lists(tmp_path)[0]] == [1]


def test_results_are_written_while_the_run_goes_on(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WRITE_SECONDS", -1)
    image, seen = shapes / "images" / "val" / "000000.jpg", []

    def look(_: np.ndarray) -> "d2.Instances":
        seen.append(len(lists(tmp_path)[0]) if seen else 0)
        return instances(64, 64)

    predictor = fake()
    predictor.side_effect = look
    predict(predictor, {f"{name}.jpg": image for name in "abc"}, tmp_path)
    assert seen == [0, 1, 2]
