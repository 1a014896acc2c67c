"""The training loop and its hooks."""

import logging
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from ..utils import comm
from ..utils.events import EventStorage, get_event_storage

_logger = logging.getLogger("detectron2.engine")


class HookBase:
    """What happens around the iterations of a trainer.

    Order: ``before_train``; in each iteration ``before_step``, ``after_backward`` (where the trainer calls it), ``after_step``;
    ``after_train``, which also follows an exception. ``self.trainer`` is the trainer, once registered. ``before_step`` should be quick,
    because timers run from there.
    """

    trainer: "TrainerBase"

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last iteration."""

    def before_step(self) -> None:
        """Before each iteration."""

    def after_backward(self) -> None:
        """Between the backward pass and the update of each iteration."""

    def after_step(self) -> None:
        """After each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """What to keep in checkpoints; a hook that returns something also defines ``load_state_dict``."""
        return {}


class TrainerBase:
    """A loop of iterations with hooks; subclasses define ``run_step``.

    ``iter`` is the current iteration, ``start_iter`` the first, ``max_iter`` the end (exclusive), ``storage`` the EventStorage of the run.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = 0

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Append hooks, called in this order; None is passed over."""
        for hook in (hook for hook in hooks if hook is not None):
            assert isinstance(hook, HookBase), f"{hook!r} is not a HookBase"
            # A strong reference would be a cycle, which keeps the GPU memory of a dropped trainer.
            hook.trainer = weakref.proxy(self)
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations ``start_iter`` to ``max_iter`` - 1."""
        _logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except Exception:
                _logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def _call(self, when: str) -> None:
        for hook in self._hooks:
            getattr(hook, when)()

    def before_train(self) -> None:
        """Call the hooks."""
        self._call("before_train")

    def after_train(self) -> None:
        """Call the hooks; the storage's iteration is then the one after the last."""
        self.storage.iter = self.iter
        self._call("after_train")

    def before_step(self) -> None:
        """Call the hooks, with the storage at the current iteration."""
        self.storage.iter = self.iter
        self._call("before_step")

    def after_backward(self) -> None:
        """Call the hooks."""
        self._call("after_backward")

    def after_step(self) -> None:
        """Call the hooks."""
        self._call("after_step")

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The iteration, and the states of hooks that have one by class name (the first of each class)."""
        states = {type(hook).__qualname__: hook.state_dict() for hook in reversed(self._hooks)}
        return {"iteration": self.iter, "hooks": {name: state for name, state in states.items() if state}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the iteration and the hooks' states; the state of a hook that is not registered is ignored with a warning."""
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None:
                _logger.warning(f"The checkpoint has a state of a hook {name}, which is not registered; it is ignored.")
            else:
                hook.load_state_dict(state)


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one data loader: forward, backward, step. The rest is for hooks."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
    ) -> None:
        """
        Args:
            model: takes one item of ``data_loader`` and returns a scalar loss or a dict of them; it is put into training mode.
            data_loader: its iterator is made at the first iteration, and must not end.
            optimizer: a torch optimizer.
            gather_metric_period: iterations between two records of the losses, which wait for the device and the other processes.
            zero_grad_before_forward: clear gradients before the forward instead of the backward pass.
        """
        super().__init__()
        model.train()
        self.model, self.data_loader, self.optimizer = model, data_loader, optimizer
        self.gather_metric_period, self.zero_grad_before_forward = gather_metric_period, zero_grad_before_forward
        self._iterator: Iterator | None = None

    def run_step(self) -> None:
        """One item of data, forward, backward, update."""
        assert self.model.training, "The model is in evaluation mode; a hook must put it back with model.train()."
        start = time.perf_counter()
        if self._iterator is None:
            self._iterator = iter(self.data_loader)
        data = next(self._iterator)
        data_time = time.perf_counter() - start
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        output = self.model(data)
        loss_dict = {"total_loss": output} if isinstance(output, torch.Tensor) else output
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        sum(loss_dict.values()).backward()
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.optimizer.step()

    def _write_metrics(self, loss_dict: Mapping[str, torch.Tensor], data_time: float, prefix: str = "", iter: int | None = None) -> None:
        iteration = self.iter if iter is None else iter
        if (iteration + 1) % self.gather_metric_period == 0:
            self.write_metrics(loss_dict, data_time, iteration, prefix)

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int, prefix: str = "") -> None:
        """Record losses averaged over processes, their sum ``{prefix}total_loss``, and the longest ``data_time`` (seconds).

        Every process calls it; rank 0 records, and raises FloatingPointError if the sum is infinite or NaN.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        own = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        everyone = comm.gather((own, data_time))
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", max(seconds for _, seconds in everyone), cur_iter=cur_iter)
        means = {name: np.mean([losses[name] for losses, _ in everyone]) for name in own}
        total = sum(means.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"The loss became infinite or NaN at iteration={cur_iter}!\nloss_dict = {means}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)

    def state_dict(self) -> dict[str, Any]:
        """That of :class:`TrainerBase`, and the optimizer's."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the state back."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
