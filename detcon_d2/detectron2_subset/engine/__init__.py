"""Training loop, hooks, process launch and the usual setup of a run."""

from ..missing import missing_name
from . import hooks
from .defaults import default_argument_parser, default_setup, default_writers
from .hooks import EvalHook, IterationTimer, LRScheduler, PeriodicCheckpointer, PeriodicWriter
from .launch import DEFAULT_TIMEOUT, launch
from .train_loop import HookBase, SimpleTrainer, TrainerBase

__all__ = ["DEFAULT_TIMEOUT", "default_argument_parser", "default_setup", "default_writers", "hooks", "launch"]
__all__ += ["EvalHook", "IterationTimer", "LRScheduler", "PeriodicCheckpointer", "PeriodicWriter"]
__all__ += ["HookBase", "SimpleTrainer", "TrainerBase"]
__getattr__ = missing_name(__name__)
