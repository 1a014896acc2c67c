"""The pretraining loop: hooks, writers and exact resume around the shared step."""

import logging
import weakref
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import partial

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint import (
    CheckpointMetadata,
    DetConCheckpointer,
    RunConfig,
    describe_own,
    is_pretraining_checkpoint,
    load_encoder,
    pretraining_metadata,
)
from detcon_d2.data import build_pretraining_loader, records_digest
from detcon_d2.engine.held_out import HeldOutHook
from detcon_d2.engine.hooks import BudgetHook, EMAHook, StepHook
from detcon_d2.engine.micro_batch import MicroBatches
from detcon_d2.engine.step import StepTrainer
from detcon_d2.engine.view_figures import ViewWarningsHook
from detcon_d2.solver import build_detcon_optimizer, build_pretraining_lr_scheduler

logger = logging.getLogger(__name__)


class DetConTrainer(StepTrainer):
    """Pretrains ``MODEL.META_ARCHITECTURE`` on ``records``.

    The position in the stream of images follows from the iteration alone, so a resumed run sees exactly what an uninterrupted one sees.
    The hooks of the method come before all others but that of the budget.
    """

    def __init__(self, cfg: "d2.CfgNode", records: list[dict]):
        """Arguments are those that :func:`detcon_d2.engine.setup.setup_pretraining` returns, the same in every process."""
        super().__init__(cfg, build_detcon_optimizer, partial(build_pretraining_lr_scheduler, num_images=len(records)))
        if cfg.DETCON.COMPILE:
            self.network.compile_encoders(cfg.DETCON.COMPILE)
        self.records = records
        self.micro_batches = self._build_micro_batches()
        self.method_hooks = self.network.hooks(cfg, records)
        values = pretraining_metadata(cfg, len(records), records_digest(records), self.network.describe(cfg))
        metadata = CheckpointMetadata(values, strict=cfg.DETCON.SOLVER.STRICT_RESUME)
        self.checkpointer = DetConCheckpointer(
            self.network,
            cfg.OUTPUT_DIR,
            max_to_keep=cfg.DETCON.SOLVER.MAX_TO_KEEP,
            metadata=metadata,
            config=RunConfig(cfg),
            trainer=weakref.proxy(self),
        )
        keys = cfg.DETCON.EMA
        ema = [EMAHook(self.network, keys.MOMENTUM, self.max_iter, keys.SCHEDULE)] if self.network.target_pairs() else []
        step = StepHook(self.network, len(records) / cfg.SOLVER.IMS_PER_BATCH)
        budget = BudgetHook(metadata.budget, self.network, cfg.SOLVER.IMS_PER_BATCH)
        after_saving = [ViewWarningsHook(cfg)] if d2.comm.is_main_process() else []
        if cfg.DETCON.HELD_OUT.DATASETS:
            after_saving.append(HeldOutHook(cfg, self.network))
        self.register_hooks([budget, *self.method_hooks, step, *self.build_hooks(ema, after_saving)])

    def _build_micro_batches(self) -> MicroBatches | None:
        size, images = self.cfg.DETCON.MICRO_BATCH, self.cfg.SOLVER.IMS_PER_BATCH // d2.comm.get_world_size()
        if size < 0 or (size and images % size):
            raise ValueError(
                f"DETCON.MICRO_BATCH is {size}; expected 0, or a divisor of the {images} images per process (SOLVER.IMS_PER_BATCH "
                f"{self.cfg.SOLVER.IMS_PER_BATCH} over {d2.comm.get_world_size()})."
            )
        return MicroBatches(self.model, self.network, size, self.autocast, self.scaler.scale) if 0 < size < images else None

    def compute_losses(self, batch: list[dict]) -> tuple[dict[str, torch.Tensor], Callable[[], None]]:
        """As the base class's; in parts where DETCON.MICRO_BATCH says so. Parameters that the method freezes get no gradient."""
        losses, backward = super().compute_losses(batch) if self.micro_batches is None else self.micro_batches(batch)

        def backward_of_trained() -> None:
            backward()
            for parameter in self.network.frozen_parameters():
                parameter.grad = None

        return losses, backward_of_trained

    def plain_batch(self, batch: list[dict]) -> list[dict]:
        """With the photometric transforms that are left to the device (DETCON.AUG.WHERE) as dicts."""
        return [
            sample | {"views": [{key: asdict(x) if is_dataclass(x) else x for key, x in view.items()} for view in sample["views"]]}
            for sample in batch
        ]

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the last checkpoint of OUTPUT_DIR if ``resume`` and there is one; else start from MODEL.WEIGHTS ("": from scratch).

        MODEL.WEIGHTS may be a pretraining checkpoint, or any file that the converter knows, for the encoder alone.

        Raises ValueError: MODEL.WEIGHTS does not fill the encoder; nothing is trained then.
        """
        resumed, weights = resume and self.checkpointer.has_checkpoint(), self.cfg.MODEL.WEIGHTS
        foreign = bool(weights) and not resumed and not is_pretraining_checkpoint(weights)
        self.checkpointer.resume_or_load("" if foreign else weights, resume=resume)
        missing = self.checkpointer.missing_keys
        if foreign:
            logger.info(load_encoder(self.network.encoder, self.cfg, weights))
        elif weights and not resumed:
            logger.info(describe_own(missing, weights))
        fresh_target = not resumed and (foreign or any(key.startswith("target.") for key in missing))
        if fresh_target and self.cfg.DETCON.EMA.INIT == "copy":
            self.network.update_target(0.0)
        self.agree_on_start(resumed)
        if self.start_iter < self.max_iter:
            for hook in self.method_hooks:
                hook.resume(self.start_iter)

    def train(self) -> None:
        """From ``start_iter`` to ``max_iter``."""
        self.batches = iter(
            build_pretraining_loader(self.cfg, self.records, self.network.sample_maker(self.cfg), start_iteration=self.start_iter)
        )
        super().train(self.start_iter, self.max_iter)
