"""The training loop and its hooks."""

import logging
import weakref
from collections.abc import Mapping
from typing import Any

from ..missing import missing_name
from ..utils.events import EventStorage

__getattr__ = missing_name(__name__)

_logger = logging.getLogger("detectron2.engine")


class HookBase:
    """Functions that a trainer calls around its iterations.

    Order: ``before_train``; in each iteration ``before_step`` and ``after_step``; ``after_train``, also after an exception.
    ``self.trainer`` is the trainer, once the hook is registered. ``before_step`` should be quick, because timers start there.
    """

    trainer: "TrainerBase"

    def before_train(self) -> None:
        """Called before the first iteration."""

    def after_train(self) -> None:
        """Called after the last iteration."""

    def before_step(self) -> None:
        """Called before each iteration."""

    def after_step(self) -> None:
        """Called after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for checkpoints. A hook with a state also defines ``load_state_dict``."""
        return {}


class TrainerBase:
    """A loop of iterations with hooks; subclasses define ``run_step``.

    ``iter`` is the current iteration, ``start_iter`` the first, ``max_iter`` the end (exclusive), ``storage`` the EventStorage of the run.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = 0

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Append hooks, which are called in this order; None is skipped."""
        for hook in (hook for hook in hooks if hook is not None):
            assert isinstance(hook, HookBase), f"{hook!r} is not a HookBase"
            # A strong reference would be a cycle, which keeps the GPU memory of a deleted trainer.
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
        """Call the hooks. The iteration of the storage is then one after the last."""
        self.storage.iter = self.iter
        self._call("after_train")

    def before_step(self) -> None:
        """Call the hooks, with the storage at the current iteration."""
        self.storage.iter = self.iter
        self._call("before_step")

    def after_step(self) -> None:
        """Call the hooks."""
        self._call("after_step")

    def run_step(self) -> None:
        """Run one iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration, and the states of hooks that have one, by class name (the first hook of each class)."""
        states = {type(hook).__qualname__: hook.state_dict() for hook in reversed(self._hooks)}
        return {"iteration": self.iter, "hooks": {name: state for name, state in states.items() if state}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the iteration and the states of the hooks. The state of a hook that is not registered is ignored, with a warning."""
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None:
                _logger.warning(f"The checkpoint has a state of a hook {name}, which is not registered; it is ignored.")
            else:
                hook.load_state_dict(state)
