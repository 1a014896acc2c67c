"""COCO's average precision of boxes and masks, computed by pycocotools."""

import contextlib
import io
import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from ..data.catalog import MetadataCatalog
from ..missing import missing_name
from ..structures import BoxMode, Instances
from ..utils import comm
from ..utils.file_io import PathManager

__getattr__ = missing_name(__name__)

_logger = logging.getLogger("detectron2.evaluation.coco_evaluation")
# The position of each metric in the precision array of pycocotools [IoU threshold, recall, category, area].
_METRICS = {"AP": np.s_[:, :, :, 0], "AP50": np.s_[0, :, :, 0], "AP75": np.s_[5, :, :, 0]}
_METRICS |= {"APs": np.s_[:, :, :, 1], "APm": np.s_[:, :, :, 2], "APl": np.s_[:, :, :, 3]}


class COCOEvaluator:
    """AP, AP50, AP75, APs, APm, APl and, with several categories, "AP-<category>" of each task, in 0..100; NaN where undefined."""

    def __init__(self, dataset_name: str, tasks: Sequence[str] | None = None, *, output_dir: str | None = None) -> None:
        """
        Args:
            dataset_name: a registered data set; its metadata has "json_file".
            tasks: "bbox", "segm" or both; by default the boxes, and the masks if the model predicts any.
            output_dir: the folder for ``coco_instances_results.json`` (COCO's result format) and ``instances_predictions.pth``.

        NotImplementedError for another task or a data set without "json_file".
        """
        if not set(tasks or ()) <= {"bbox", "segm"}:
            raise NotImplementedError(f"The subset has COCO's tasks bbox and segm, found {tasks}; install detectron2 for others.")
        self._tasks, self._output_dir = tasks, output_dir
        self._metadata = MetadataCatalog.get(dataset_name)
        if self._metadata.get("json_file") is None:
            raise NotImplementedError(
                f"Dataset {dataset_name!r} has no json_file. The subset evaluates data sets of register_coco_instances only; "
                "install detectron2 for others."
            )
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco = COCO(PathManager.get_local_path(self._metadata.json_file))
        self._predictions = []

    def reset(self) -> None:
        """Delete the predictions."""
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Store the "instances" of each output as results for the "image_id" of its input, masks as RLE."""
        for record, output in zip(inputs, outputs):
            if "instances" in output:
                results = instances_to_coco_json(output["instances"].to("cpu"), record["image_id"])
                self._predictions.append({"image_id": record["image_id"], "instances": results})

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, dict[str, float]]:
        """Return task -> metric -> score of the predictions of all processes; {} without predictions, and on all but the main process.

        ``img_ids``: of the images that count; None: all images of the data set.

        AssertionError for a predicted class that the data set does not have.
        """
        comm.synchronize()
        predictions = list(itertools.chain.from_iterable(comm.gather(self._predictions)))
        if not comm.is_main_process():
            return {}
        if not predictions:
            _logger.warning("[COCOEvaluator] Did not receive valid predictions.")
            return {}
        results = self._with_dataset_ids(predictions)
        if self._output_dir:
            self._save(predictions, results)
        if "annotations" not in self._coco.dataset:
            _logger.info("Annotations are not available for evaluation.")
            return {}
        tasks = self._tasks or (["bbox", "segm"] if any("segmentation" in one for one in results) else ["bbox"])
        return OrderedDict((task, self._evaluate_task(task, results, img_ids)) for task in sorted(tasks))

    def _with_dataset_ids(self, predictions: list[dict]) -> list[dict]:
        results = [one for image in predictions for one in image["instances"]]
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            return results
        ids = {contiguous: id for id, contiguous in mapping.items()}
        unknown = {one["category_id"] for one in results} - ids.keys()
        assert not unknown, f"Predictions have the classes {sorted(unknown)}, but the dataset has {len(ids)}: 0 to {len(ids) - 1}."
        return [one | {"category_id": ids[one["category_id"]]} for one in results]

    def _save(self, predictions: list[dict], results: list[dict]) -> None:
        PathManager.mkdirs(self._output_dir)
        torch.save(predictions, os.path.join(self._output_dir, "instances_predictions.pth"))
        path = os.path.join(self._output_dir, "coco_instances_results.json")
        with PathManager.open(path + ".tmp", "w") as file:
            json.dump(results, file)
        os.replace(path + ".tmp", path)
        _logger.info(f"Results saved to {path}")

    def _evaluate_task(self, task: str, results: list[dict], img_ids: list[int] | None) -> dict[str, float]:
        if not results:
            _logger.warning("No predictions from the model!")
            return dict.fromkeys(_METRICS, float("nan"))
        precision = self._precision(task, results, img_ids)
        scores = {metric: _mean(precision[where]) for metric, where in _METRICS.items()}
        _logger.info(f"Evaluation results for {task}:\n" + tabulate([scores.values()], list(scores), "pipe", ".3f"))
        names = self._metadata.get("thing_classes", [])
        if len(names) < 2:
            return scores
        assert len(names) == precision.shape[2], f"{len(names)} thing_classes, but {precision.shape[2]} categories in the json file."
        each = {name: _mean(precision[:, :, index, 0]) for index, name in enumerate(names)}
        _logger.info(f"Per-category {task} AP:\n" + tabulate(each.items(), ["category", "AP"], "pipe", ".3f"))
        return scores | {f"AP-{name}": score for name, score in each.items()}

    def _precision(self, task: str, results: list[dict], img_ids: list[int] | None) -> np.ndarray:
        if task == "segm" and not any("segmentation" in one for one in results):
            raise ValueError("The task is 'segm', but the predictions have no masks; expected pred_masks, or tasks=('bbox',).")
        # loadRes changes its argument, so it gets copies. Without "bbox" it takes the area of a mask from the mask itself.
        left_out = "bbox" if task == "segm" else "segmentation"
        copies = [{key: value for key, value in one.items() if key != left_out} for one in results]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._coco, self._coco.loadRes(copies), task)
            if img_ids is not None:
                evaluation.params.imgIds = img_ids
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"][..., -1]


def _mean(precision: np.ndarray) -> float:
    # pycocotools marks categories without annotations by -1.
    defined = precision[precision > -1]
    return float(100 * defined.mean()) if defined.size else float("nan")


def instances_to_coco_json(instances: Instances, img_id: int) -> list[dict]:
    """Convert the instances of an image to COCO results: "image_id", "category_id", "bbox" (xywh), "score" and, for masks, "segmentation".

    ``instances``, on the CPU: ``pred_boxes``, ``scores``, ``pred_classes`` and optionally ``pred_masks`` (N, H, W) bool, which become
    compressed RLE.
    """
    if not len(instances):
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    columns = zip(instances.pred_classes.tolist(), boxes, instances.scores.tolist())
    results = [{"image_id": img_id, "category_id": category, "bbox": box, "score": score} for category, box, score in columns]
    if instances.has("pred_masks"):
        for result, mask in zip(results, instances.pred_masks.numpy()):
            rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            result["segmentation"] = rle | {"counts": rle["counts"].decode("ascii")}
    return results
