"""What happens around a step: target update, throughput, orderly stop."""

import signal
from types import FrameType

from detcon_d2 import d2
from detcon_d2.modeling.ema import ema_momentum


class EMAHook(d2.HookBase):
    """Moves the target network after each optimizer step, with the momentum of that step (method.md, "Networks").

    Comes after the optimizer's hook and before the checkpointer, so that a checkpoint holds the target of its iteration.
    """

    def __init__(self, model, base_momentum: float, max_iter: int):
        """
        Args:
            model: has ``update_target(momentum)``; not wrapped by DDP.
            base_momentum: tau_0.
            max_iter: T.
        """
        self._model = model
        self._base_momentum = base_momentum
        self._max_iter = max_iter

    def after_step(self) -> None:
        """Update the target and log the momentum."""
        momentum = ema_momentum(self.trainer.iter, self._max_iter, self._base_momentum)
        self._model.update_target(momentum)
        self.trainer.storage.put_scalar("ema_momentum", momentum, smoothing_hint=False)


class ThroughputHook(d2.HookBase):
    """Logs images/s of the whole job from IterationTimer's time; comes after it."""

    def __init__(self, images_per_step: int):
        """
        Args:
            images_per_step: IMS_PER_BATCH.
        """
        self._images = images_per_step

    def after_step(self) -> None:
        """Log ``images_per_second``; the first iterations, which IterationTimer leaves out, have none."""
        time = self.trainer.storage.histories().get("time")
        if time is not None:
            self.trainer.storage.put_scalar("images_per_second", self._images / time.latest())


class StopOnSignalHook(d2.HookBase):
    """SIGTERM or SIGUSR1 (schedulers send them before they kill a job): finish the iteration, save, leave. Must be the last hook.

    All processes stop after the same iteration: the trainer agrees on ``stop_agreed`` in its step.
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
        """Take the signals."""
        self._previous = {number: signal.signal(number, self._request) for number in self.SIGNALS}

    def after_step(self) -> None:
        """Save and leave if a stop was agreed."""
        if self.trainer.stop_agreed and self.trainer.iter + 1 < self.trainer.max_iter:
            self._checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
            d2.comm.synchronize()
            raise SystemExit(f"Stopped by a signal after iteration {self.trainer.iter}; continue with --resume.")

    def after_train(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.trainer.stop_requested = True
