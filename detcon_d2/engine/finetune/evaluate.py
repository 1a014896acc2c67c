"""AP of a detector or mIoU of a segmentor on the data sets of DATASETS.TEST, and ``results.json``, which holds it and its origin."""

import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.checkpoint import DetConCheckpointer, check_weights
from detcon_d2.data.reading import RefusedImageError
from detcon_d2.engine.finetune.data import build_evaluation_loader
from detcon_d2.engine.finetune.mapper import UNREADABLE
from detcon_d2.engine.finetune.semantic import is_semantic
from detcon_d2.engine.finetune.windows import WindowedSegmentor
from detcon_d2.io.atomic import atomic_file

logger = logging.getLogger(__name__)


def evaluate(cfg: "d2.CfgNode", model: nn.Module) -> dict[str, dict[str, dict[str, float]]]:
    """The metrics of every data set, also logged as Detectron2's csv lines. All processes must call it.

    They are COCO's for detectors, PASCAL VOC's for Detectron2's data sets ``voc_*``, and those of ``SemSegEvaluator`` (mIoU) for semantic
    segmentation.

    Args:
        cfg: resolved.
        model: not wrapped by DDP; in evaluation mode during the call.

    Returns:
        data set -> "bbox", "segm" or "sem_seg" -> metric -> value in percent (NaN if the data set has no such objects) on the main process;
        an empty dict on the others. Where images could not be read and DETCON.ON_BAD_IMAGE is "skip", "images" -> "left_out" is their
        number; the metrics are those of the other images, except for PASCAL VOC's, which count the objects in them as missed.
    """
    if is_semantic(cfg):
        model = WindowedSegmentor(model, cfg.DETCON.SEM_SEG.WINDOW, cfg.DETCON.SEM_SEG.WINDOW_STRIDE)
    results = {}
    for name in cfg.DATASETS.TEST:
        folder = Path(cfg.OUTPUT_DIR, "inference", re.sub(r"[^\w.-]+", "_", name) if len(cfg.DATASETS.TEST) > 1 else "")
        loader = build_evaluation_loader(cfg, name)  # registers the data set
        evaluator = ReadableEvaluator(build_evaluator(cfg, name, str(folder)))
        found = d2.inference_on_dataset(model, ReadableBatches(loader, evaluator), evaluator)
        if d2.comm.is_main_process():
            logger.info("Evaluation results for %s in csv format:", name)
            d2.print_csv_format(found)
            results[name] = {task: dict(metrics) for task, metrics in found.items()}
    return results


def build_evaluator(cfg: "d2.CfgNode", name: str, folder: str) -> Any:
    """Detectron2's evaluator for one registered data set; that of COCO writes its results to ``folder``."""
    if is_semantic(cfg):
        return d2.SemSegEvaluator(name)
    if d2.MetadataCatalog.get(name).get("evaluator_type") == "pascal_voc":
        return d2.PascalVOCDetectionEvaluator(name)
    return d2.COCOEvaluator(name, tasks=("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",), output_dir=folder)


class ReadableBatches:
    """The batches of an evaluation loader, one image each, without images that could not be read; an evaluator counts those."""

    def __init__(self, loader: torch.utils.data.DataLoader, evaluator: "ReadableEvaluator"):
        self._loader, self._evaluator = loader, evaluator

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self._loader:
            if UNREADABLE in batch[0]:
                self._evaluator.left_out += 1
            else:
                yield batch


class ReadableEvaluator:
    """An evaluator that knows how many images were left out; COCO's counts only those that it has seen."""

    def __init__(self, evaluator: Any):
        self._evaluator = evaluator

    def reset(self) -> None:
        """Forget all images."""
        self._evaluator.reset()
        self.left_out, self._seen = 0, []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Store the outputs for a batch."""
        self._seen += [record["image_id"] for record in inputs]
        self._evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """The metrics of all processes' images. All processes must call it. Raises RefusedImageError if no image could be read."""
        states = d2.comm.all_gather((self.left_out, self._seen))
        left_out, seen = sum(count for count, _ in states), [one for _, ids in states for one in ids]
        if left_out and not seen:
            raise RefusedImageError(f"none of the {left_out} images of the data set could be read; check DATASETS.TEST and its disk.")
        only_seen = {"img_ids": seen} if left_out and isinstance(self._evaluator, d2.COCOEvaluator) else {}
        found = self._evaluator.evaluate(**only_seen)
        return found | {"images": {"left_out": left_out}} if found and left_out else found


def write_results(cfg: "d2.CfgNode", results: Mapping[str, Any], iteration: int, weights: str, seconds: float) -> Path:
    """Write ``OUTPUT_DIR/results.json`` atomically, and return its path.

    Args:
        cfg: resolved.
        results: of :func:`evaluate`; NaN becomes null.
        iteration: number of fine-tuning iterations of the evaluated weights.
        weights: the evaluated checkpoint, or the one from which fine-tuning started; "" for random initialisation.
        seconds: duration of this run, training included.
    """
    content = {
        "backend": d2.describe_backend().split(" (")[0],
        "iteration": iteration,
        "protocol": cfg.DETCON.FINETUNE.PROTOCOL,
        "weights": weights,
        "seconds": round(seconds, 1),
        "results": _without_nan(results),
    }
    path = Path(cfg.OUTPUT_DIR) / "results.json"
    with atomic_file(path, sync=True) as file:
        file.write(json.dumps(content, indent=1, allow_nan=False).encode())
    return path


def load_detector(cfg: "d2.CfgNode", weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """A model with all its weights from a checkpoint, in evaluation mode; and the checkpoint's metadata and iteration, if it has them.

    Raises ValueError: no weights, or the file lacks parameters of the model.
    """
    if not weights:
        raise ValueError("MODEL.WEIGHTS is empty; expected the checkpoint of a detector (or --resume with one in OUTPUT_DIR).")
    model = d2.build_model(cfg)
    if cfg.DETCON.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
    checkpointer = DetConCheckpointer(model)
    rest = checkpointer.load(weights, checkpointables=[])
    missing = checkpointer.missing_keys
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{weights} lacks {len(missing)} parameters of the detector, or has them in another shape: {shown}. "
            "Expected a fine-tuned checkpoint of this config, not a pretrained backbone."
        )
    return model.eval(), rest


def prepare_evaluation(cfg: "d2.CfgNode", resume: bool) -> Callable[[], None]:
    """Load MODEL.WEIGHTS, or with ``resume`` the last checkpoint of OUTPUT_DIR.

    Returns:
        a function that evaluates it, prints the results and writes ``results.json``.

    Raises ValueError: there are no weights to evaluate, or no data to evaluate them on.
    """
    start = time.perf_counter()
    if not cfg.DATASETS.TEST:
        raise ValueError(
            "DATASETS.TEST is empty; --eval-only needs a data set, for example '(\"coco:/path/instances.json,/path/images\",)'."
        )
    last = DetConCheckpointer(nn.Module(), cfg.OUTPUT_DIR)
    if resume and not last.has_checkpoint():
        raise ValueError(f"--resume: there is no checkpoint in {cfg.OUTPUT_DIR}; expected one, or MODEL.WEIGHTS without --resume.")
    weights = last.get_checkpoint_file() if resume else cfg.MODEL.WEIGHTS
    for line in check_weights(cfg, weights):
        logger.info(line)
    model, rest = load_detector(cfg, weights)
    iteration = rest.get("iteration", -1) + 1

    def run() -> None:
        results = evaluate(cfg, model)
        if d2.comm.is_main_process():
            path = write_results(cfg, results, iteration, weights, time.perf_counter() - start)
            logger.info("Evaluated %s (iteration %d): %s", weights, iteration, path)

    return run


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
