"""What the trainers share: hooks and one optimizer step, which also runs on CPU processes and in bf16, and stops on NaN."""

import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detcon_d2 import d2
from detcon_d2.data.reading import RefusedImageError
from detcon_d2.engine.hooks import StopOnSignalHook, ThroughputHook
from detcon_d2.engine.writers import DetConMetricPrinter
from detcon_d2.io.atomic import atomic_file
from detcon_d2.io.lock import release_folders

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite. The message names the iteration, the process and the file that holds the batch."""


class DiskError(BaseException):
    """Caused by an OSError. TrainerBase logs a traceback of each Exception, which would hide the one line that matters."""


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError from error


@contextmanager
def _refused_images() -> Iterator[None]:
    """One line ends the process. TrainerBase logs a traceback of each Exception, which would hide that line."""
    try:
        yield
    except RefusedImageError as error:
        raise SystemExit(f"{os.path.basename(sys.argv[0])}: {error}") from None


class StepTrainer(d2.TrainerBase):
    """Detectron2's ``TrainerBase`` with autocast, with decisions shared by all processes, and with a check for NaN and infinity.

    ``network`` is the model of the config; ``model`` is the same object, or its DDP wrapper if there are several processes. A subclass
    sets ``checkpointer`` before :meth:`build_hooks` and :meth:`agree_on_start`, and ``batches`` before training starts.
    """

    batches: Iterator[list[dict]]
    checkpointer: "d2.DetectionCheckpointer"

    def __init__(
        self,
        cfg: "d2.CfgNode",
        build_optimizer: Callable[["d2.CfgNode", nn.Module], torch.optim.Optimizer],
        build_lr_scheduler: Callable[["d2.CfgNode", torch.optim.Optimizer], "d2.LRMultiplier"],
    ):
        """``cfg`` is resolved and frozen; ``build_optimizer`` is called with it and the model, ``build_lr_scheduler`` with it and the
        optimizer."""
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
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.device_type = torch.device(cfg.MODEL.DEVICE).type
        self.amp_dtype = AMP_DTYPES[cfg.DETCON.SOLVER.AMP_DTYPE] if cfg.SOLVER.AMP.ENABLED else None
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.amp_dtype == torch.float16)
        self._last_batch: list[dict] | None = None

    def build_hooks(self, after_update: Iterable["d2.HookBase"] = (), after_saving: Iterable["d2.HookBase"] = ()) -> list["d2.HookBase"]:
        """All hooks of a run in their order: timers, learning rate, ``after_update``, checkpointer, ``after_saving``, writers (terminal,
        ``metrics.json``, TensorBoard), stop.

        Args:
            after_update: hooks that change the model after the optimizer's step, so that a checkpoint holds the result.
            after_saving: hooks whose scalars the writers must see.
        """
        cfg, main_process = self.cfg, d2.comm.is_main_process()
        hooks = [d2.hooks.IterationTimer(), ThroughputHook(cfg.SOLVER.IMS_PER_BATCH), d2.hooks.LRScheduler(self.optimizer, self.scheduler)]
        hooks += after_update
        if main_process:
            # Without a period, only the last iteration is saved, and that of a signal.
            hooks.append(d2.hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD or cfg.SOLVER.MAX_ITER + 1))
        hooks += after_saving
        if main_process:
            json_writer = d2.JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))
            writers = [DetConMetricPrinter(self.max_iter), json_writer, d2.TensorboardXWriter(cfg.OUTPUT_DIR)]
            hooks.append(d2.hooks.PeriodicWriter(writers, period=cfg.DETCON.LOG_PERIOD))
        return [*hooks, StopOnSignalHook(self.checkpointer)]

    def train(self, start_iter: int, max_iter: int) -> None:
        """As the base class's. A disk that is full or gone ends the run with one line and exit code 1; what was saved can be continued."""
        try:
            super().train(start_iter, max_iter)
        except DiskError as error:
            raise SystemExit(f"Stopped at iteration {self.iter}: {error.__cause__}. Continue with --resume when that is mended.") from None
        finally:
            release_folders()

    def before_train(self) -> None:
        """The hooks', with :class:`DiskError` in place of OSError; the same in the methods below."""
        with _disk_errors():
            super().before_train()

    def after_step(self) -> None:
        """See :meth:`before_train`."""
        with _disk_errors(), _refused_images():
            super().after_step()

    def after_train(self) -> None:
        """See :meth:`before_train`."""
        with _disk_errors():
            super().after_train()

    def run_step(self) -> None:
        """One optimizer step over this process's share of the batch."""
        start = time.perf_counter()
        with _refused_images():
            batch = self._next_batch()
        data_time = time.perf_counter() - start
        losses, backward = self.compute_losses(batch)
        self.optimizer.zero_grad()
        backward()
        means = self._agree(losses, batch)
        # An optimizer that clips gradients expects them without the loss scale.
        self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._last_batch = batch
        if d2.comm.is_main_process():
            self.storage.put_scalars(total_loss=sum(means.values()), **means)
            self.storage.put_scalar("data_time", data_time)

    def compute_losses(self, batch: list[dict]) -> tuple[dict[str, torch.Tensor], Callable[[], None]]:
        """The losses of a batch, and a function that adds their gradients, times the loss scale, to those of the parameters."""
        with self.autocast():
            losses = self.model(batch)
        return losses, lambda: self.scaler.scale(sum(losses.values())).backward()

    def autocast(self) -> torch.autocast:
        """The precision of forward passes."""
        return torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def agree_on_start(self, resumed: bool) -> None:
        """Set ``start_iter`` after the checkpointer has loaded. Every process must have loaded the same checkpoint.

        Raises ValueError: the processes would start at different iterations.
        """
        if resumed:
            self.start_iter = self.iter + 1
        starts = d2.comm.all_gather(self.start_iter)
        if len(set(starts)) > 1:
            raise ValueError(f"The processes would start at iterations {starts}. Every process needs the same OUTPUT_DIR on a shared disk.")
        if resumed:
            logging.getLogger(__name__).info("Resuming at iteration %d of %d.", self.start_iter, self.max_iter)

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks (among them the schedule), optimizer and loss scale."""
        return super().state_dict() | {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        groups, base_lrs = self.optimizer.state_dict()["param_groups"], self.scheduler.base_lrs
        super().load_state_dict(state_dict)
        _check_optimizer(state_dict["optimizer"]["param_groups"], groups)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        # Learning rate, weight decay and the like are those of this run's config, which the log has announced.
        self.scheduler.base_lrs = base_lrs
        for group, options, lr in zip(self.optimizer.param_groups, groups, self.scheduler.get_lr(), strict=True):
            group.update({name: value for name, value in options.items() if name != "params"} | {"lr": lr})
        self.scaler.load_state_dict(state_dict["scaler"])

    def plain_batch(self, batch: list[dict]) -> list[dict]:
        """The batch as tensors and plain values, which the safe loader of checkpoints can read."""
        return batch

    def _next_batch(self) -> list[dict]:
        try:
            return next(self.batches)
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            raise RuntimeError(
                f"No batch within the {self.cfg.DETCON.LOADER_TIMEOUT} s of DETCON.LOADER_TIMEOUT: a worker process hangs, perhaps in "
                "a read from a network disk. Repair the disk and continue with --resume, or raise DETCON.LOADER_TIMEOUT."
            ) from None

    def _agree(self, losses: dict[str, torch.Tensor], batch: list[dict]) -> dict[str, float]:
        """Stop all processes before the optimizer's step if a loss or the gradients are not finite; set ``stop_agreed`` in all if one has
        received a signal to stop. The host waits for the device only here.

        Returns:
            the losses, on the main process means over all processes.
        """
        names = list(losses)
        values = torch.stack([losses[name].detach().float() for name in names])
        # Gradients are equal in all processes. With fp16 the scaler checks them itself and skips the step.
        gradients = [] if self.scaler.is_enabled() else [p.grad for p in self.network.parameters() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else values.new_zeros(1)
        bad_loss, bad_gradient = ~values.sum().isfinite(), ~norms.isfinite().all()
        flags = torch.stack([bad_loss, bad_loss, bad_gradient, torch.full_like(bad_loss, self.stop_requested)]).to(values.dtype)
        if d2.comm.get_world_size() > 1:
            torch.distributed.all_reduce(flags[1:], op=torch.distributed.ReduceOp.MAX)
            torch.distributed.reduce(values, dst=0)
            values = values / d2.comm.get_world_size()
        own_loss, any_loss, gradient, stop, *means = torch.cat([flags, values]).tolist()
        self.stop_agreed = bool(stop)
        if own_loss:
            raise self._nonfinite("loss", batch)
        if any_loss:
            raise NonFiniteLossError(f"The loss of another process is not finite at iteration {self.iter}.")
        if gradient:
            raise self._nonfinite("gradient", batch)
        return dict(zip(names, means, strict=True))

    def _nonfinite(self, what: str, batch: list[dict]) -> NonFiniteLossError:
        """The error to raise, after saving the batch and the previous one."""
        path = Path(self.cfg.OUTPUT_DIR) / f"nan_batch_iter{self.iter}_rank{d2.comm.get_rank()}.pth"
        previous = None if self._last_batch is None else self.plain_batch(self._last_batch)
        with atomic_file(path, sync=True) as file:
            torch.save({"iteration": self.iter, "batch": self.plain_batch(batch), "previous_batch": previous}, file)
        return NonFiniteLossError(
            f"The {what} is not finite at iteration {self.iter} on process {d2.comm.get_rank()}. This batch and the previous one are "
            f"saved in {path}. Images: {', '.join(record['file_name'] for record in batch[:4])} ... Try a lower learning rate, a longer "
            "warm-up, or bf16 instead of fp16."
        )


def _check_optimizer(found: list[dict], expected: list[dict]) -> None:
    """Raise ValueError where the state is another optimizer's. Versions of one optimizer may have more or fewer options."""
    names, wanted = ({name for group in groups for name in group} for groups in (found, expected))
    if not (names <= wanted or names >= wanted):
        raise ValueError(
            f"The checkpoint to resume is of another optimizer: it has {', '.join(sorted(names - wanted))}, and that of this config "
            f"{', '.join(sorted(wanted - names))}. Restore the optimizer of the config, or start anew in another OUTPUT_DIR."
        )


def wrap_ddp(model: nn.Module) -> nn.Module:
    """The model, in DistributedDataParallel if there are several processes. Forward passes do not broadcast its buffers.

    Synchronised BatchNorm keeps the buffers of all processes equal. With plain BatchNorm each process has its own, and checkpoints hold
    those of the main process.
    """
    if d2.comm.get_world_size() == 1:
        return model
    # Newer versions of torch deprecate broadcast_buffers. Their forward_sync_buffers=False still copies the buffers of rank 0 once, here,
    # which changes nothing: a new model has the same buffers in every process.
    names = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    # Without device_ids it leaves the samples where they are, and the model moves a batch at once. The model is on one device.
    return DistributedDataParallel(model, **{option: False})
