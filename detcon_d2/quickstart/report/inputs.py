"""What the report is made of: the arms, their results and detections, and the validation images."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from detcon_d2.io.images import read_image
from detcon_d2.io.specs import list_images
from detcon_d2.masks.generators.annotations import annotation_label_map
from detcon_d2.quickstart.shapes import split_paths

_IOU_THRESHOLD = 0.5


@dataclass(frozen=True)
class Arm:
    """One row of the comparison.

    Attributes:
        name: short, as in paths.
        title: for people, as in tables and legends.
        folder: of the arm, where the quickstart records what it ran (``stages/*.json``).
        pretrain: output folder of its pretraining; ``None`` for a baseline without.
        finetune: output folder of its fine-tuning, with ``results.json`` and ``inference/coco_instances_results.json``.
    """

    name: str
    title: str
    folder: Path
    pretrain: Path | None
    finetune: Path


def quickstart_arms(folder: Path) -> list[Arm]:
    """The two arms of ``make quickstart``: DetCon_B and random initialisation."""
    detcon, random = folder / "detcon_b", folder / "random"
    return [
        Arm("detcon_b", "DetCon_B", detcon, detcon / "pretrain", detcon / "finetune"),
        Arm("random", "random initialisation", random, None, random / "finetune"),
    ]


def check_inputs(folder: Path, arms: Sequence[Arm]) -> None:
    """Raise ValueError when a file is missing, each with the tool that makes it, or when two arms have one name or title."""
    for attribute in ("name", "title"):
        values = [getattr(arm, attribute) for arm in arms]
        if len(set(values)) < len(values) or not values:
            raise ValueError(f"The arms have the {attribute}s {values}; expected at least one arm, each {attribute} once.")
    needed = [
        (folder / "views.png", "tools/visualize_views.py"),
        (split_paths(folder / "data", "train").annotations, "tools/quickstart.py"),
        (split_paths(folder / "data", "val").annotations, "tools/quickstart.py"),
    ]
    for arm in arms:
        if arm.pretrain is not None:
            needed += [
                (arm.pretrain / name, "tools/train_net.py (pretraining)") for name in ("config.yaml", "metrics.json", "model_final.pth")
            ]
        predictions = arm.finetune / "inference" / "coco_instances_results.json"
        finetuned = (arm.finetune / "metrics.json", arm.finetune / "results.json", predictions)
        needed += [(path, "tools/train_net.py (fine-tuning)") for path in finetuned]
    missing = [f"  {path}, which {tool} writes" for path, tool in needed if not path.is_file()]
    if missing:
        raise ValueError(
            f"The report of {folder} cannot be made yet. Missing:\n" + "\n".join(missing) + "\nmake quickstart continues where it stopped."
        )


@dataclass(frozen=True)
class Result:
    """Evaluation of one arm: average precision in percent, as Detectron2's COCO evaluator gives it.

    Attributes:
        backend: which Detectron2 made it.
        iteration: of fine-tuning.
        dataset: name of the evaluated data set.
        figures: ``{"bbox": {"AP": ..., "AP50": ..., "AP-disc": ...}, "segm": ...}``.
    """

    backend: str
    iteration: int
    dataset: str
    figures: dict[str, dict[str, float]]

    def figure(self, task: str, name: str) -> float:
        """A figure in percent; NaN where the evaluation has none."""
        value = self.figures.get(task, {}).get(name)
        return float("nan") if value is None else float(value)


def read_result(arm: Arm) -> Result:
    """The arm's ``results.json``.

    Raises:
        ValueError: not such a file, or no data set with box AP in it.
    """
    path = arm.finetune / "results.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        dataset = next(name for name, figures in content["results"].items() if "bbox" in figures)
        return Result(str(content.get("backend", "unknown")), int(content["iteration"]), dataset, content["results"][dataset])
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        expected = '{"backend", "iteration", "results": {data set: {"bbox": {"AP", ...}, "segm": {...}}}}'
        raise ValueError(
            f"{path}: {type(error).__name__} {error}; expected {expected}, as tools/train_net.py writes it at the end of fine-tuning."
        ) from error


@dataclass(frozen=True)
class Thing:
    """An object or a detection.

    Attributes:
        category: COCO id.
        mask: bool (H, W).
        box: x, y, width, height in pixels.
        score: of a detection.
        right: a detection that matches an object of its category with mask IoU >= 0.5, each object once.
    """

    category: int
    mask: np.ndarray
    box: tuple[float, float, float, float]
    score: float | None = None
    right: bool = True


class LabelledImages:
    """The images of a COCO json in the order of their file names."""

    def __init__(self, annotations: Path, images: Path):
        """
        Args:
            annotations: COCO instances json.
            images: folder of the images.
        """
        self.records = list_images(f"coco:{annotations},{images}")
        content = json.loads(annotations.read_text(encoding="utf-8"))
        self.info: dict = content.get("info", {})
        self.categories: dict[int, str] = {category["id"]: category["name"] for category in content["categories"]}

    def __len__(self) -> int:
        return len(self.records)

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB."""
        return read_image(self.records[index]["file_name"])

    def objects(self, index: int) -> list[Thing]:
        """The annotated objects of an image, crowds left out."""
        record = self.records[index]
        return [_thing(a, record) for a in record["annotations"] if not a.get("iscrowd", 0)]

    def count(self, category: int) -> int:
        """Number of annotated objects of a category."""
        return sum(a["category_id"] == category and not a.get("iscrowd", 0) for record in self.records for a in record["annotations"])

    def detections(self, index: int, predictions: list[dict]) -> list[Thing]:
        """The image's best detections, as many as it has objects, best first, each compared with the objects.

        Args:
            index: of the image.
            predictions: its COCO results, see :func:`read_predictions`.
        """
        objects = self.objects(index)
        best = sorted(predictions, key=lambda prediction: -prediction["score"])[: len(objects)]
        found = [_thing(prediction, self.records[index]) for prediction in best]
        return [
            Thing(thing.category, thing.mask, thing.box, prediction["score"], right)
            for thing, prediction, right in zip(found, best, match(found, objects))
        ]


def read_predictions(path: Path) -> dict[int | str, list[dict]]:
    """COCO results by image id.

    Raises:
        ValueError: not a list of COCO results with masks.
    """
    try:
        by_image = defaultdict(list)
        for prediction in json.loads(path.read_text(encoding="utf-8")):
            if {"category_id", "bbox", "score", "segmentation"} - prediction.keys():
                raise KeyError(f"a prediction has only {', '.join(prediction)}")
            by_image[prediction["image_id"]].append(prediction)
        return by_image
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}; expected a list of COCO results with bbox, score and segmentation.") from error


def match(found: Sequence[Thing], objects: Sequence[Thing]) -> list[bool]:
    """For detections, best first: does it match an object of its category, not matched before, with mask IoU >= 0.5?"""
    free, right = list(range(len(objects))), []
    for thing in found:
        candidates = [index for index in free if objects[index].category == thing.category]
        best = max(candidates, key=lambda index: _iou(thing.mask, objects[index].mask), default=None)
        right.append(best is not None and _iou(thing.mask, objects[best].mask) >= _IOU_THRESHOLD)
        if right[-1]:
            free.remove(best)
    return right


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def _thing(annotation: dict, record: dict) -> Thing:
    mask = annotation_label_map([annotation], record["height"], record["width"]) > 0
    box = annotation.get("bbox") or coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))).tolist()
    return Thing(annotation["category_id"], mask, tuple(box))
