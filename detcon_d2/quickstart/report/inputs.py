"""The inputs of the report: which files must exist, and the images of the data set with their objects and detections."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from detcon_d2.io.images import read_image
from detcon_d2.quickstart.runs import Run
from detcon_d2.quickstart.shapes import split_paths

PREDICTIONS = "inference/coco_instances_results.json"
"""Predictions of a run, in its fine-tuning's output folder."""


def check_inputs(folder: Path, runs: Sequence[Run]) -> None:
    """Raise ValueError if a file is missing; the message names each file and the tool that writes it."""
    needed = {folder / "views.png": "tools/visualize_views.py"}
    needed |= {split_paths(folder / "data", split).annotations: "tools/quickstart.py" for split in ("train", "val")}
    for run in runs:
        pretrained = ("config.yaml", "metrics.json", "model_final.pth") if run.pretrain else ()
        needed |= {run.pretrain / name: "tools/train_net.py (pretraining)" for name in pretrained}
        needed |= {run.finetune / name: "tools/train_net.py (fine-tuning)" for name in ("metrics.json", "results.json", PREDICTIONS)}
    missing = [f"  {path}, which {tool} writes" for path, tool in needed.items() if not path.is_file()]
    if missing:
        lines = [f"The report of {folder} cannot be made yet. Missing:", *missing, "make quickstart continues where it stopped."]
        raise ValueError("\n".join(lines))


class Thing(NamedTuple):
    """An object or a detection: COCO id of its category, mask bool (H, W), box (x, y, width, height) in pixels.

    A detection has a score, and is correct if it matches an object of its category with mask IoU >= 0.5, each object once.
    """

    category: int
    mask: np.ndarray
    box: tuple[float, float, float, float]
    score: float | None = None
    correct: bool = True


class LabelledImages:
    """The images of a split of the built-in data set, in the order of their file names.

    ``agreement`` is the probability that the material of an object agrees with its category; ``categories`` are names by COCO id, and
    ``counts`` numbers of objects by COCO id.
    """

    def __init__(self, data: Path, split: str):
        """Read the annotations of a split in the folder ``data``; images are read when they are asked for."""
        paths = split_paths(data, split)
        content = json.loads(paths.annotations.read_text(encoding="utf-8"))
        self.agreement: float = content["info"]["shapes"]["agreement"]
        self.categories: dict[int, str] = {category["id"]: category["name"] for category in content["categories"]}
        self.counts = Counter(annotation["category_id"] for annotation in content["annotations"])
        self._folder, self._annotations = paths.images, content["annotations"]
        self._images = sorted(content["images"], key=lambda image: image["file_name"])

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB."""
        return read_image(self._folder / self._images[index]["file_name"])

    def objects(self, index: int) -> list[Thing]:
        """The annotated objects of an image."""
        return [_thing(annotation) for annotation in self._annotations if annotation["image_id"] == self._images[index]["id"]]

    def detections(self, index: int, predictions: dict[int, list[dict]]) -> list[Thing]:
        """The best COCO results of an image, by its id, as many as it has objects, best first, each compared with the objects."""
        objects = self.objects(index)
        found = sorted(predictions.get(self._images[index]["id"], []), key=lambda prediction: -prediction["score"])
        return match([_thing(prediction) for prediction in found[: len(objects)]], objects)


def match(found: Sequence[Thing], objects: Sequence[Thing]) -> list[Thing]:
    """Detections, best first, with ``correct``: each takes the free object of its category that it overlaps most, if IoU >= 0.5."""
    free, result = list(objects), []
    for thing in found:
        candidates = [(_iou(thing.mask, one.mask), index) for index, one in enumerate(free) if one.category == thing.category]
        iou, best = max(candidates, default=(0.0, 0))
        if iou >= 0.5:
            del free[best]
        result.append(thing._replace(correct=iou >= 0.5))
    return result


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def _thing(annotation: dict) -> Thing:
    """Of an annotation of the built-in data set or of a prediction; the mask of both is a compressed run length."""
    mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
    return Thing(annotation["category_id"], mask, tuple(annotation["bbox"]), annotation.get("score"))
