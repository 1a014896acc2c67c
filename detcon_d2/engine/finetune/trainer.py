"""The fine-tuning loop: any Detectron2 detector, with its data, evaluation and PreciseBN around the shared step."""

import contextlib
import hashlib
import logging
import time
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.checkpoint import CheckpointMetadata, DetConCheckpointer, describe_missing, finetuning_metadata, read_metadata
from detcon_d2.engine.finetune.data import build_finetune_loader
from detcon_d2.engine.finetune.evaluate import evaluate, write_results
from detcon_d2.engine.finetune.precise_bn import PreciseBNHook
from detcon_d2.engine.hooks import StopOnSignalHook, ThroughputHook
from detcon_d2.engine.step import StepTrainer
from detcon_d2.engine.writers import DETECTION_FIGURES
from detcon_d2.solver import build_finetuning_optimizer

logger = logging.getLogger(__name__)


class FinetuneTrainer(StepTrainer):
    """Trains ``MODEL.META_ARCHITECTURE`` on ``records`` and evaluates it on DATASETS.TEST.

    A resumed run continues iteration, weights, optimizer and schedule exactly. Its images and random choices start anew, from a seed that
    SEED and the iteration determine: unlike pretraining, it is not bit for bit the run that was not interrupted.
    Hook order: timers, LR, PreciseBN, checkpointer, evaluation, writers, stop.
    """

    figures = DETECTION_FIGURES

    def __init__(self, cfg: "d2.CfgNode", records: list[dict]):
        """
        Args:
            cfg: resolved by :func:`detcon_d2.engine.finetune.setup.setup_finetuning`.
            records: the training images, in the order that every process shares.
        """
        self._start_time = time.perf_counter()
        super().__init__(cfg, build_finetuning_optimizer)
        self.records = records
        values = finetuning_metadata(cfg, len(records), _digest(records), *_categories(cfg))
        self.metadata = CheckpointMetadata(values, strict=cfg.DETCON.SOLVER.STRICT_RESUME)
        self.checkpointer = DetConCheckpointer(self.network, cfg.OUTPUT_DIR, metadata=self.metadata, trainer=weakref.proxy(self))
        self.results: dict[str, Any] = {}
        self.register_hooks(self.build_hooks(self.network))

    def build_hooks(self, model: nn.Module) -> list["d2.HookBase"]:
        """The hooks, in the order they need: see the class."""
        cfg = self.cfg
        hooks = [
            d2.hooks.IterationTimer(),
            ThroughputHook(cfg.SOLVER.IMS_PER_BATCH),
            d2.hooks.LRScheduler(self.optimizer, self.scheduler),
        ]
        if cfg.TEST.PRECISE_BN.ENABLED:
            hooks.append(PreciseBNHook(cfg.TEST.EVAL_PERIOD, model, self._fresh_batches, cfg.TEST.PRECISE_BN.NUM_ITER))
        if d2.comm.is_main_process():
            keep = cfg.DETCON.SOLVER.MAX_TO_KEEP or None
            hooks.append(d2.hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=keep))
        if cfg.DATASETS.TEST:
            # The hook must not hold the trainer, which holds the hooks.
            trainer = weakref.proxy(self)
            hooks.append(d2.hooks.EvalHook(cfg.TEST.EVAL_PERIOD, lambda: trainer.evaluate()))
        if d2.comm.is_main_process():
            hooks.append(d2.hooks.PeriodicWriter(self.build_writers(), period=cfg.DETCON.LOG_PERIOD))
        hooks.append(StopOnSignalHook(self.checkpointer))
        return hooks

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the last checkpoint of OUTPUT_DIR if ``resume`` and there is one; else start from MODEL.WEIGHTS ("": from scratch).

        Raises:
            ValueError: the checkpoint to resume does not fit, or MODEL.WEIGHTS lacks tensors of the backbone.
        """
        resumed = resume and self.checkpointer.has_checkpoint()
        weights = self.cfg.MODEL.WEIGHTS
        if resumed or not weights:
            self.checkpointer.resume_or_load(weights, resume=resume)
        else:
            self.metadata.take_over(read_metadata(d2.PathManager.get_local_path(weights)))
            with _one_line_on_missing_keys():
                self.checkpointer.resume_or_load(weights, resume=False)
            logger.info("%s: %s.", weights, describe_missing(self.checkpointer.missing_keys))
        self.agree_on_start(resumed)
        if resumed and self.start_iter < self.max_iter:
            logger.info("The order of the images starts anew at iteration %d.", self.start_iter)

    def train(self) -> None:
        """From ``start_iter`` to ``max_iter``, with an evaluation at the end."""
        seed = self._seed()
        # The order of the images is the same in every process; what is drawn in flips and proposals is each one's own. Building the model
        # has drawn numbers, too, and not the same on every backend.
        d2.seed_all_rng(None if seed is None else seed + 1 + d2.comm.get_rank())
        self.batches = iter(build_finetune_loader(self.cfg, self.records, seed, self.cfg.DATALOADER.NUM_WORKERS))
        super().train(self.start_iter, self.max_iter)

    def evaluate(self) -> dict[str, Any]:
        """AP of the current weights; at the end of training ``results.json`` is written, too.

        Returns:
            the metrics, by data set where there are several; empty but on the main process.
        """
        self.results = evaluate(self.cfg, self.network)
        if not d2.comm.is_main_process():
            return {}
        done = min(self.iter + 1, self.max_iter)
        if done == self.max_iter:
            seconds = time.perf_counter() - self._start_time
            write_results(self.cfg, self.results, done, self.cfg.MODEL.WEIGHTS, seconds)
        return self.results if len(self.results) > 1 else next(iter(self.results.values()))

    def plain_batch(self, batch: list[dict]) -> list[dict]:
        """Images with their boxes and classes; masks are left out."""
        plain = []
        for record in batch:
            kept = {key: value for key, value in record.items() if isinstance(value, str | int | float | torch.Tensor)}
            instances = record.get("instances")
            if instances is not None:
                kept |= {"gt_boxes": instances.gt_boxes.tensor, "gt_classes": instances.gt_classes}
            plain.append(kept)
        return plain

    def _fresh_batches(self) -> torch.utils.data.DataLoader:
        # In this process: another set of workers beside the training loader's would double their memory.
        return build_finetune_loader(self.cfg, self.records, self._seed(), num_workers=0)

    def _seed(self) -> int | None:
        return None if self.cfg.SEED < 0 else self.cfg.SEED + self.start_iter


@contextlib.contextmanager
def _one_line_on_missing_keys() -> Iterator[None]:
    """Hold back fvcore's lists of hundreds of keys; its errors pass."""
    fvcore_logger = logging.getLogger("fvcore.common.checkpoint")
    level = fvcore_logger.level
    fvcore_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        fvcore_logger.setLevel(level)


def _digest(records: list[dict]) -> str:
    """Hash of which images there are and how many annotations each has."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record['image_id']} {len(record.get('annotations', ()))}\n".encode())
    return digest.hexdigest()[:16]


def _categories(cfg: "d2.CfgNode") -> tuple[list[str], list[int]]:
    """Names and data set ids of the classes of the first training set."""
    metadata = d2.MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    return list(metadata.get("thing_classes") or ()), sorted(ids, key=ids.get)
