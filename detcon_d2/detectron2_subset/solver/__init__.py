"""Optimizers and learning-rate schedules from a config."""

from ..missing import missing_name
from .build import build_lr_scheduler, build_optimizer
from .lr_scheduler import LRMultiplier, WarmupParamScheduler

__all__ = ["LRMultiplier", "WarmupParamScheduler", "build_lr_scheduler", "build_optimizer"]
__getattr__ = missing_name(__name__)
