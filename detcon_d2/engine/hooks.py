"""What happens after a step: update of the target network, throughput, stop on a signal."""

import signal
from types import FrameType

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.ema import ema_momentum


class EMAHook(d2.HookBase):
    """Moves the target network after each optimizer step, with the momentum of that step (method.md, "Networks").

    It comes after the optimizer's step and before the checkpointer, so that a checkpoint holds the target of its own iteration.
    """

    def __init__(self, model, base_momentum: float, max_iter: int, schedule: str = "cosine"):
        """
        Args:
            model: has ``update_target(momentum)``; not wrapped by DDP.
            base_momentum: tau_0.
            max_iter: T.
            schedule: of DETCON.EMA.SCHEDULE.
        """
        self._model = model
        self._base_momentum = base_momentum
        self._max_iter = max_iter
        self._constant = schedule == "constant"

    def after_step(self) -> None:
        """Update the target and log the momentum."""
        base = self._base_momentum
        momentum = base if self._constant else ema_momentum(self.trainer.iter, self._max_iter, base)
        self._model.update_target(momentum)
        self.trainer.storage.put_scalar("ema_momentum", momentum, smoothing_hint=False)


class StepHook(d2.HookBase):
    """Tells a method the iteration and the epoch before each step, and when the optimizer's step is done."""

    def __init__(self, model: PretrainingModel, epoch_length: float):
        """
        Args:
            model: the method; not wrapped by DDP.
            epoch_length: iterations per epoch.
        """
        self._model = model
        self._epoch_length = epoch_length

    def before_step(self) -> None:
        """Start the step of the method."""
        self._model.start_step(self.trainer.iter, self.trainer.iter / self._epoch_length)

    def after_step(self) -> None:
        """End the step of the method."""
        self._model.end_step()


class ThroughputHook(d2.HookBase):
    """Logs images/s of all processes together, from the ``time`` that IterationTimer logs; it comes after that hook."""

    def __init__(self, images_per_step: int):
        """
        Args:
            images_per_step: IMS_PER_BATCH.
        """
        self._images = images_per_step

    def after_step(self) -> None:
        """Log ``images_per_second``, except for the first iterations, which IterationTimer leaves out."""
        time = self.trainer.storage.histories().get("time")
        if time is not None:
            self.trainer.storage.put_scalar("images_per_second", self._images / time.latest())


class StopOnSignalHook(d2.HookBase):
    """On SIGTERM or SIGUSR1, which schedulers send before they kill a job: finish the iteration, save, exit. It must be the last hook.

    The signal may reach only one process. The trainer's step combines ``stop_requested`` of all processes to ``stop_agreed``, so that all
    of them stop after the same iteration.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, checkpointer: "d2.DetectionCheckpointer"):
        """
        Args:
            checkpointer: saves on the main process.
        """
        self._checkpointer = checkpointer
        self._previous: dict[int, object] = {}

    def before_train(self) -> None:
        """Handle the signals."""
        self._previous = {number: signal.signal(number, self._request) for number in self.SIGNALS}

    def after_step(self) -> None:
        """Save and exit if a stop was agreed."""
        if self.trainer.stop_agreed and self.trainer.iter + 1 < self.trainer.max_iter:
            self._checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
            d2.comm.synchronize()
            raise SystemExit(f"Stopped by a signal after iteration {self.trainer.iter}; continue with --resume.")

    def after_train(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.trainer.stop_requested = True
