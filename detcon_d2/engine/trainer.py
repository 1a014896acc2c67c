"""The pretraining loop: hooks, writers and exact resume around the shared step."""

import weakref

from torch import nn

from detcon_d2 import d2
from detcon_d2.checkpoint import CheckpointMetadata, DetConCheckpointer, pretraining_metadata
from detcon_d2.data import build_detcon_train_loader, describe_masks, records_digest
from detcon_d2.engine.hooks import EMAHook, StopOnSignalHook, ThroughputHook
from detcon_d2.engine.step import StepTrainer
from detcon_d2.solver import build_detcon_optimizer


class DetConTrainer(StepTrainer):
    """Pretrains ``MODEL.META_ARCHITECTURE`` on ``records``.

    The position in the stream of images follows from the iteration alone, so a resumed run sees exactly what an uninterrupted one sees.
    Hook order: timers, LR, EMA, checkpointer, writers, stop.
    """

    def __init__(self, cfg: "d2.CfgNode", records: list[dict]):
        """
        Args:
            cfg: resolved by :func:`detcon_d2.engine.setup.setup`.
            records: the training images, in the order that every process shares.
        """
        super().__init__(cfg, build_detcon_optimizer)
        self.records = records
        metadata = pretraining_metadata(cfg, len(records), records_digest(records), describe_masks(cfg))
        self.checkpointer = DetConCheckpointer(
            self.network,
            cfg.OUTPUT_DIR,
            metadata=CheckpointMetadata(metadata, strict=cfg.DETCON.SOLVER.STRICT_RESUME),
            trainer=weakref.proxy(self),
        )
        self.register_hooks(self.build_hooks(self.network))

    def build_hooks(self, model: nn.Module) -> list["d2.HookBase"]:
        """The hooks, in the order they need: see the class."""
        cfg = self.cfg
        hooks = [
            d2.hooks.IterationTimer(),
            ThroughputHook(cfg.SOLVER.IMS_PER_BATCH),
            d2.hooks.LRScheduler(self.optimizer, self.scheduler),
        ]
        if hasattr(model, "update_target"):
            hooks.append(EMAHook(model, cfg.DETCON.EMA.MOMENTUM, self.max_iter))
        if d2.comm.is_main_process():
            keep = cfg.DETCON.SOLVER.MAX_TO_KEEP or None
            hooks.append(d2.hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=keep))
            hooks.append(d2.hooks.PeriodicWriter(self.build_writers(), period=cfg.DETCON.LOG_PERIOD))
        hooks.append(StopOnSignalHook(self.checkpointer))
        return hooks

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the last checkpoint of OUTPUT_DIR if ``resume`` and there is one; else start from MODEL.WEIGHTS ("": from scratch)."""
        resumed = resume and self.checkpointer.has_checkpoint()
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        fresh_target = not resumed and any(key.startswith("target.") for key in self.checkpointer.missing_keys)
        if fresh_target and self.cfg.DETCON.EMA.INIT == "copy":
            self.network.update_target(0.0)
        self.agree_on_start(resumed)

    def train(self) -> None:
        """From ``start_iter`` to ``max_iter``."""
        self.batches = iter(build_detcon_train_loader(self.cfg, self.records, start_iteration=self.start_iter))
        super().train(self.start_iter, self.max_iter)
