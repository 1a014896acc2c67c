"""The training loop with its hooks, and the usual setup of a run."""

from ..missing import missing_name
from . import hooks
from .defaults import default_argument_parser, default_setup
from .hooks import EvalHook, IterationTimer, LRScheduler, PeriodicCheckpointer, PeriodicWriter
from .train_loop import HookBase, TrainerBase

__all__ = ["EvalHook", "HookBase", "IterationTimer", "LRScheduler", "PeriodicCheckpointer", "PeriodicWriter", "TrainerBase"]
__all__ += ["default_argument_parser", "default_setup", "hooks"]
__getattr__ = missing_name(__name__)
