"""What pretraining and fine-tuning share of a trainer: one optimizer step that also runs on CPU processes and in bf16, and stops on NaN."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detcon_d2 import d2
from detcon_d2.engine.writers import PRETRAINING_FIGURES, DetConMetricPrinter
from detcon_d2.io.atomic import write_atomically

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; the message names iteration, process and the file with the offending batch."""


class StepTrainer(d2.TrainerBase):
    """Detectron2's ``TrainerBase`` with a step that autocasts, agrees over processes and refuses what is not finite.

    ``network`` is the model of the config, ``model`` the same or its DDP wrapper where there are several processes. A subclass sets
    ``batches`` before training starts, and ``checkpointer`` before :meth:`agree_on_start`.
    """

    batches: Iterator[list[dict]]
    checkpointer: "d2.DetectionCheckpointer"
    figures: Mapping[str, str] = PRETRAINING_FIGURES
    """Scalar -> format, of the terminal's line."""

    def __init__(self, cfg: "d2.CfgNode", build_optimizer: Callable[["d2.CfgNode", nn.Module], torch.optim.Optimizer]):
        """
        Args:
            cfg: resolved and frozen.
            build_optimizer: called with it and the model.
        """
        super().__init__()
        model = d2.build_model(cfg)
        if cfg.DETCON.CHANNELS_LAST:
            model.to(memory_format=torch.channels_last)
        model.train()
        self.cfg = cfg
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.stop_requested = self.stop_agreed = False
        self.network, self.model = model, wrap_ddp(model)
        self.optimizer = build_optimizer(cfg, model)
        self.scheduler = d2.build_lr_scheduler(cfg, self.optimizer)
        self.device_type = torch.device(cfg.MODEL.DEVICE).type
        self.amp_dtype = AMP_DTYPES[cfg.DETCON.SOLVER.AMP_DTYPE] if cfg.SOLVER.AMP.ENABLED else None
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.amp_dtype == torch.float16)
        self._last_batch: list[dict] | None = None

    def build_writers(self) -> list["d2.EventWriter"]:
        """Terminal, ``metrics.json`` and TensorBoard."""
        folder = self.cfg.OUTPUT_DIR
        json_writer = d2.JSONWriter(os.path.join(folder, "metrics.json"))
        return [DetConMetricPrinter(self.max_iter, figures=self.figures), json_writer, d2.TensorboardXWriter(folder)]

    def run_step(self) -> None:
        """One optimizer step over this process's share of the batch."""
        start = time.perf_counter()
        batch = next(self.batches)
        data_time = time.perf_counter() - start
        losses, backward = self.compute_losses(batch)
        self._agree(bool(torch.isfinite(sum(losses.values()))), batch)
        self.optimizer.zero_grad()
        backward()
        self._check_gradients(batch)
        # Clipping, where the optimizer does it, is meant for gradients of their true size.
        self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._last_batch = batch
        self._log(losses, data_time)

    def compute_losses(self, batch: list[dict]) -> tuple[dict[str, torch.Tensor], Callable[[], None]]:
        """The losses of a batch, and what adds their gradients, times the scaler's scale, to the parameters'."""
        with self.autocast():
            losses = self.model(batch)
        return losses, lambda: self.scaler.scale(sum(losses.values())).backward()

    def autocast(self) -> torch.autocast:
        """The precision of forward passes."""
        return torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def agree_on_start(self, resumed: bool) -> None:
        """Set ``start_iter`` after the checkpointer has loaded; every process must have loaded the same.

        Raises:
            ValueError: the processes would start at different iterations.
        """
        if resumed:
            self.start_iter = self.iter + 1
        starts = d2.comm.all_gather(self.start_iter)
        if len(set(starts)) > 1:
            raise ValueError(f"The processes would start at iterations {starts}. Every process needs the same OUTPUT_DIR on a shared disk.")
        if resumed:
            logging.getLogger(__name__).info("Resuming at iteration %d of %d.", self.start_iter, self.max_iter)

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks (schedule), optimizer and loss scale."""
        return super().state_dict() | {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.scaler.load_state_dict(state_dict["scaler"])

    def plain_batch(self, batch: list[dict]) -> list[dict]:
        """The batch as tensors and plain values, which the safe loader of checkpoints reads back."""
        return batch

    def _log(self, losses: dict[str, torch.Tensor], data_time: float) -> None:
        # The losses of the storage are means over processes; other figures are the main process's.
        means = d2.comm.reduce_dict({name: loss.detach() for name, loss in losses.items()})
        if not d2.comm.is_main_process():
            return
        values = {name: float(value) for name, value in means.items()}
        self.storage.put_scalars(total_loss=sum(values.values()), **values)
        self.storage.put_scalar("data_time", data_time)

    def _agree(self, finite: bool, batch: list[dict]) -> None:
        """Let every process know whether one has a non-finite loss (all stop at once) or was told to stop."""
        flags = torch.tensor([not finite, self.stop_requested], dtype=torch.int32, device=self.cfg.MODEL.DEVICE)
        if d2.comm.get_world_size() > 1:
            torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        any_nonfinite, self.stop_agreed = (bool(flag) for flag in flags.tolist())
        if not finite:
            raise self._nonfinite("loss", batch)
        if any_nonfinite:
            raise NonFiniteLossError(f"The loss of another process is not finite at iteration {self.iter}.")

    def _check_gradients(self, batch: list[dict]) -> None:
        # Before they reach the weights, and a checkpoint. They are equal in all processes; fp16's scaler looks itself and skips the step.
        if self.scaler.is_enabled():
            return
        norms = torch._foreach_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        if not torch.stack(norms).isfinite().all():
            raise self._nonfinite("gradient", batch)

    def _nonfinite(self, what: str, batch: list[dict]) -> NonFiniteLossError:
        path = self._save_bad_batch(batch)
        return NonFiniteLossError(
            f"The {what} is not finite at iteration {self.iter} on process {d2.comm.get_rank()}. The batch and the one before it are in "
            f"{path}. Images: {', '.join(record['file_name'] for record in batch[:4])} ... A lower learning rate, a longer "
            "warm-up or bf16 in place of fp16 are the usual remedies."
        )

    def _save_bad_batch(self, batch: list[dict]) -> str:
        path = os.path.join(self.cfg.OUTPUT_DIR, f"nan_batch_iter{self.iter}_rank{d2.comm.get_rank()}.pth")
        previous = None if self._last_batch is None else self.plain_batch(self._last_batch)
        state = {"iteration": self.iter, "batch": self.plain_batch(batch), "previous_batch": previous}
        write_atomically(path, lambda file: torch.save(state, file))
        return path


def wrap_ddp(model: nn.Module) -> nn.Module:
    """The model, in DistributedDataParallel where there are several processes."""
    if d2.comm.get_world_size() == 1:
        return model
    # Synchronised BatchNorm keeps the buffers equal; with plain BN each process has its own, and the main one's are saved.
    device_ids = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else None
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)
