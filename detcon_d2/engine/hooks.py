"""What happens after a step: update of the target network, throughput, stop on a signal."""

import signal
from types import FrameType

from detcon_d2 import d2
from detcon_d2.modeling.ema import ema_momentum


class EMAHook(d2.HookBase):
    """Moves the target network after each optimizer step, with the momentum of that step (method.md, "Networks").

    It comes after the optimizer's step and before the checkpointer, so that a checkpoint holds the target of its own iteration.
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
    """On SIGTERM or SIGUSR1, which schedulers send before they kill a job, or SIGINT (Ctrl-C): finish the iteration, save, exit.

    It must be the last hook. A second SIGINT interrupts at once, without saving. The signal may reach only one process. The trainer's step
    combines ``stop_requested`` of all processes to ``stop_agreed``, so that all of them stop after the same iteration.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, checkpointer: "d2.DetectionCheckpointer"):
        """
        Args:
            checkpointer: saves on the main process.
        """
        self._checkpointer = checkpointer
        self._previous: dict[int, object] = {}
        self._interrupted = False

    def before_train(self) -> None:
        """Handle the signals."""
        self._previous = {number: signal.signal(number, self._request) for number in self.SIGNALS}

    def after_step(self) -> None:
        """Save and exit if a stop was agreed."""
        if self.trainer.stop_agreed and self.trainer.iter + 1 < self.trainer.max_iter:
            self._checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
            d2.comm.synchronize()
            message = f"Stopped by a signal after iteration {self.trainer.iter}; continue with --resume."
            raise SystemExit(message if d2.comm.is_main_process() else 1)

    def after_train(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            signal.default_int_handler(number, frame)
        self._interrupted |= number == signal.SIGINT
        self.trainer.stop_requested = True
