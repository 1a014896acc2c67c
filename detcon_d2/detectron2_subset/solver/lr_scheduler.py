"""Learning rates as multipliers over the progress of training, based on the parameter schedulers of fvcore."""

from typing import Any

from fvcore.common.param_scheduler import CompositeParamScheduler, ConstantParamScheduler, LinearParamScheduler, ParamScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupParamScheduler(CompositeParamScheduler):
    """A warm-up phase before another scheduler."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        """
        Args:
            scheduler: the schedule after the warm-up, a function of the progress in [0, 1].
            warmup_factor: the first value as a fraction of the first value of ``scheduler``.
            warmup_length: the warm-up's fraction of the training, in [0, 1].
            warmup_method: "linear" increases linearly to the value with which ``scheduler`` continues; "constant" keeps the first value.
            rescale_interval: run the whole ``scheduler`` after the warm-up, instead of its part after ``warmup_length``.

        ValueError for another ``warmup_method``.
        """
        first = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            warmup = LinearParamScheduler(first, scheduler(0.0 if rescale_interval else warmup_length))
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(first)
        else:
            raise ValueError(f"Unknown warmup method: {warmup_method!r}; expected 'linear' or 'constant'.")
        scaling = ["rescaled", "rescaled" if rescale_interval else "fixed"]
        super().__init__([warmup, scheduler], [warmup_length, 1 - warmup_length], scaling)


class LRMultiplier(LRScheduler):
    """A torch scheduler: the learning rate of each group is its initial value times ``multiplier(iteration / max_iter)``."""

    def __init__(self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1) -> None:
        """
        Args:
            optimizer: the learning rates of its groups are the initial values.
            multiplier: a function of the progress in [0, 1]; ValueError if it is not a ParamScheduler.
            max_iter: the total number of iterations.
            last_iter: the last completed iteration, -1 at the beginning.
        """
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"LRMultiplier needs an fvcore ParamScheduler as its multiplier, got {multiplier!r}.")
        self._multiplier, self._max_iter = multiplier, max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def get_lr(self) -> list[float]:
        """Return the learning rate of each group at the current iteration."""
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the initial values and the iteration. The schedule is not saved: the config defines it."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}
