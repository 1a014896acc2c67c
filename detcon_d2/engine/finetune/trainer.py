"""The fine-tuning loop: data, evaluation and PreciseBN of any Detectron2 detector around the shared step."""

import logging
import time
import weakref
from typing import Any

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint import CheckpointMetadata, DetConCheckpointer, RunConfig, describe_missing, finetuning_metadata, read_metadata
from detcon_d2.engine.finetune.best import BestCheckpointHook, StoppedEarly
from detcon_d2.engine.finetune.data import annotations_digest, build_finetune_loader, catalog_categories
from detcon_d2.engine.finetune.evaluate import evaluate, write_results
from detcon_d2.engine.finetune.semantic import is_semantic
from detcon_d2.engine.generators import GeneratorsHook, States, kept_generators, set_generator_states
from detcon_d2.engine.hooks import BudgetHook, PreciseBNHook
from detcon_d2.engine.step import StepTrainer
from detcon_d2.solver import build_finetuning_lr_scheduler, build_finetuning_optimizer

logger = logging.getLogger(__name__)


class FinetuneTrainer(StepTrainer):
    """Trains ``MODEL.META_ARCHITECTURE`` on ``records`` and evaluates it on DATASETS.TEST.

    A resumed run continues exactly: the order of the images follows from SEED, and checkpoints hold the random number generators of all
    processes, from which flips and sampled proposals follow. Evaluation does not move them.
    """

    def __init__(self, cfg: "d2.CfgNode", records: list[dict]):
        """Arguments are those that :func:`detcon_d2.engine.finetune.setup.setup_finetuning` returns, the same in every process."""
        self._start_time = time.perf_counter()
        super().__init__(cfg, build_finetuning_optimizer, build_finetuning_lr_scheduler)
        self.records = records
        categories = catalog_categories(cfg.DATASETS.TRAIN[0], is_semantic(cfg))
        values = finetuning_metadata(cfg, len(records), annotations_digest(records), *categories)
        self.metadata = CheckpointMetadata(values, strict=cfg.DETCON.SOLVER.STRICT_RESUME)
        self.checkpointer = DetConCheckpointer(
            self.network,
            cfg.OUTPUT_DIR,
            max_to_keep=cfg.DETCON.SOLVER.MAX_TO_KEEP,
            metadata=self.metadata,
            config=RunConfig(cfg),
            trainer=weakref.proxy(self),
        )
        precise_bn, evaluation = [], []
        if cfg.TEST.PRECISE_BN.ENABLED:
            precise_bn.append(PreciseBNHook(cfg.TEST.EVAL_PERIOD, self.network, self._fresh_batches, cfg.TEST.PRECISE_BN.NUM_ITER))
        if cfg.DATASETS.TEST:
            # A weak reference: the trainer holds the hook.
            trainer = weakref.proxy(self)
            evaluation.append(d2.hooks.EvalHook(cfg.TEST.EVAL_PERIOD, lambda: trainer.evaluate()))
        self._best = None
        if best := cfg.DETCON.TEST.BEST_METRIC:
            period, patience = cfg.TEST.EVAL_PERIOD, cfg.DETCON.TEST.EARLY_STOPPING
            self._best = BestCheckpointHook(self.checkpointer, best, period, patience, lambda: trainer.metrics())
            evaluation.append(self._best)
        self._generators = GeneratorsHook(cfg.SOLVER.CHECKPOINT_PERIOD)
        budget = BudgetHook(self.metadata.budget, self.network, cfg.SOLVER.IMS_PER_BATCH)
        self.register_hooks([budget, *self.build_hooks([*precise_bn, self._generators], evaluation)])

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint of OUTPUT_DIR if ``resume`` is set and there is one. Otherwise start from MODEL.WEIGHTS, or, if
        that is "", from random weights.

        Raises ValueError: the checkpoint to resume does not fit, or MODEL.WEIGHTS lacks tensors of the backbone.
        """
        resumed = resume and self.checkpointer.has_checkpoint()
        weights = self.cfg.MODEL.WEIGHTS
        if resumed or not weights:
            self.checkpointer.resume_or_load(weights, resume=resume)
        else:
            self.metadata.take_over(read_metadata(d2.PathManager.get_local_path(weights)))
            # fvcore warns with lists of hundreds of keys; one line replaces them.
            fvcore_logger = logging.getLogger("fvcore.common.checkpoint")
            level = fvcore_logger.level
            fvcore_logger.setLevel(logging.ERROR)
            try:
                self.checkpointer.resume_or_load(weights, resume=False)
            finally:
                fvcore_logger.setLevel(level)
            logger.info("%s: %s.", weights, describe_missing(self.checkpointer.missing_keys))
        self.agree_on_start(resumed)

    def train(self) -> None:
        """Train from ``start_iter`` to ``max_iter`` or until it is stopped early, and evaluate at the end."""
        if self._best is not None and self._best.stopped:
            logger.info("This run was stopped early (DETCON.TEST.EARLY_STOPPING): %s.", self._best.describe())
            return
        seed, start = self._seed(), self.start_iter
        # All processes share the order of the images; flips and the sampling of proposals use a seed per process. Set it here, because
        # building the model has consumed a number of random numbers that depends on the backend.
        d2.seed_all_rng(None if seed is None else seed + start + 1 + d2.comm.get_rank())
        state = self._generators.resumed_state() if 0 < start < self.max_iter else None
        waiting = () if state is None else state["waiting"]
        self._loader = build_finetune_loader(self.cfg, self.records, seed, self.cfg.DATALOADER.NUM_WORKERS, start=start, waiting=waiting)
        self.batches = iter(self._loader)
        if state is not None:
            set_generator_states(state["generators"])
        try:
            super().train(start, self.max_iter)
        except StoppedEarly:
            logger.info("Stopped early: no progress in %d evaluations; %s.", self.cfg.DETCON.TEST.EARLY_STOPPING, self._best.describe())
            if d2.comm.is_main_process():
                self._write_results(self.iter + 1)

    def waiting_states(self) -> list[States]:
        """Of the images that are loaded and wait for others of their shape; see :class:`GeneratorsHook`."""
        return getattr(self._loader.dataset, "waiting_states", list)()

    def evaluate(self) -> dict[str, Any]:
        """AP or mIoU of the current weights. At the end of training, ``results.json`` is also written.

        Returns:
            the metrics, by data set if there are several, on the main process; an empty dict on the others.
        """
        metrics = self.metrics()
        if d2.comm.is_main_process() and self.iter + 1 >= self.max_iter:
            self._write_results(self.max_iter)
        return metrics

    def metrics(self) -> dict[str, Any]:
        """As :meth:`evaluate`, without a file."""
        with kept_generators():
            self._results = evaluate(self.cfg, self.network)
        return self._results if len(self._results) > 1 else dict(*self._results.values())

    def _write_results(self, done: int) -> None:
        write_results(self.cfg, self._results, done, self.cfg.MODEL.WEIGHTS, time.perf_counter() - self._start_time)

    def plain_batch(self, batch: list[dict]) -> list[dict]:
        """Images with their boxes and classes, without masks."""
        plain = []
        for record in batch:
            kept = {key: value for key, value in record.items() if isinstance(value, str | int | float | torch.Tensor)}
            instances = record.get("instances")
            if instances is not None:
                kept |= {"gt_boxes": instances.gt_boxes.tensor, "gt_classes": instances.gt_classes}
            plain.append(kept)
        return plain

    def _fresh_batches(self) -> torch.utils.data.DataLoader:
        # Loaded in this process: a second set of workers would double the memory of the training loader's.
        return build_finetune_loader(self.cfg, self.records, self._seed(), num_workers=0)

    def _seed(self) -> int | None:
        return None if self.cfg.SEED < 0 else self.cfg.SEED
