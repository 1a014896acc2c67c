"""Training loop, hooks, process launch and the usual setup of a run."""

from ..missing import missing_name
from . import hooks
from .defaults import DefaultPredictor, default_argument_parser, default_setup, default_writers
from .hooks import EvalHook, IterationTimer, LRScheduler, PeriodicCheckpointer, PeriodicWriter, PreciseBN
from .launch import DEFAULT_TIMEOUT, launch
from .train_loop import HookBase, SimpleTrainer, TrainerBase

__all__ = ["DEFAULT_TIMEOUT", "DefaultPredictor", "default_argument_parser", "default_setup", "default_writers", "hooks", "launch"]
__all__ += ["PreciseBN"]
__all__ += ["EvalHook", "IterationTimer", "LRScheduler", "PeriodicCheckpointer", "PeriodicWriter"]
__all__ += ["HookBase", "SimpleTrainer", "TrainerBase"]
__getattr__ = missing_name(__name__)
