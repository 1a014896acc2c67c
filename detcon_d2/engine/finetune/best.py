"""The best checkpoint by a metric, and the end of training when it does not improve (DETCON.TEST)."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from detcon_d2 import d2

logger = logging.getLogger(__name__)


class StoppedEarly(BaseException):
    """Ends the loop; it is not an error, which TrainerBase would log as one."""


def check_best(cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
    """What DETCON.TEST requires, for :func:`~detcon_d2.engine.setup.check_config`."""
    test, tested = cfg.DETCON.TEST, bool(cfg.DATASETS.TEST)
    patience, early = test.EARLY_STOPPING, "a number of evaluations, with BEST_METRIC and TEST.EVAL_PERIOD, or 0"
    return [
        (tested or not test.BEST_METRIC, "DETCON.TEST.BEST_METRIC", test.BEST_METRIC, "'', because DATASETS.TEST is empty"),
        (patience == 0 or (patience > 0 < cfg.TEST.EVAL_PERIOD and test.BEST_METRIC), "DETCON.TEST.EARLY_STOPPING", patience, early),
    ]


class BestCheckpointHook(d2.HookBase):
    """Writes ``model_best.pth`` after each evaluation with a new highest value of a metric, as Detectron2's BestCheckpointer does.

    It comes after the evaluation, in every process. Unlike there, ``last_checkpoint`` never names the best checkpoint, and a resumed run
    knows the best value. NaN is never the best.
    """

    def __init__(self, checkpointer: "d2.DetectionCheckpointer", metric: str, period: int, patience: int, evaluate: Callable[[], Mapping]):
        """
        Args:
            checkpointer: has ``write(name, **kwargs)``.
            metric: name of a scalar that the evaluation records.
            period: iterations between evaluations; 0: only at the end.
            patience: evaluations in a row without a new best value after which training ends; 0: never.
            evaluate: for the evaluation that a run missed because it was stopped between a checkpoint and its evaluation; returns a nested
                dict on the main process.
        """
        self._checkpointer, self._metric, self._period, self._patience = checkpointer, metric, period, patience
        self._evaluate = evaluate
        self._state: dict[str, Any] = {"value": -math.inf, "iteration": -1, "evaluated": -1, "since": 0}

    @property
    def stopped(self) -> bool:
        """Whether training has ended for lack of progress."""
        return 0 < self._patience <= self._state["since"]

    def before_train(self) -> None:
        """Repeat the evaluation that the resumed checkpoint is one iteration short of."""
        done = self.trainer.start_iter
        if self._period > 0 and 0 < done < self.trainer.max_iter and done % self._period == 0 and self._state["evaluated"] < done - 1:
            self._compare(done - 1, _flat(self._evaluate()))

    def after_step(self) -> None:
        """Compare after an evaluation, and end training if it is time."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._compare(self.trainer.iter, self._recorded())
            if self.stopped:
                self._checkpointer.save("model_final", iteration=self.trainer.iter)
                raise StoppedEarly

    def after_train(self) -> None:
        """Compare the last evaluation, which follows the last iteration."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._compare(self.trainer.iter - 1, self._recorded())

    def state_dict(self) -> dict[str, Any]:
        """The best value and its iteration, the last iteration that was evaluated, and the evaluations since the best."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._state = dict(state)

    def describe(self) -> str:
        """One line on the best value."""
        return f"best {self._metric} {self._state['value']:.4g} after iteration {self._state['iteration']}"

    def _recorded(self) -> dict[str, float]:
        return {name: value for name, (value, _) in self.trainer.storage.latest().items()}

    def _compare(self, iteration: int, metrics: Mapping[str, float]) -> None:
        # Only the main process has results; all must decide alike.
        names = sorted(name for name in metrics if name.endswith(("/AP", "/mIoU")))
        value, names = d2.comm.all_gather((metrics.get(self._metric), names))[0]
        if value is None:
            raise ValueError(
                f"DETCON.TEST.BEST_METRIC is {self._metric!r}; expected a metric of the evaluation, such as {', '.join(names)}."
            )
        self._state |= {"evaluated": iteration, "since": self._state["since"] + 1}
        if value > self._state["value"]:
            self._state |= {"value": value, "iteration": iteration, "since": 0}
            if d2.comm.is_main_process():
                self._checkpointer.write("model_best", iteration=iteration)
                logger.info("model_best.pth: %s.", self.describe())


def _flat(results: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat = {}
    for name, value in results.items():
        flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {f"{prefix}{name}": float(value)}
    return flat
