"""Optimizers, parameter groups, length of the run and learning rate."""

from detcon_d2.solver.build import build_detcon_optimizer, build_finetuning_optimizer, get_detcon_param_groups
from detcon_d2.solver.lars import LARS
from detcon_d2.solver.schedule import build_finetuning_lr_scheduler, build_pretraining_lr_scheduler, resolve_schedule

__all__ = [
    "LARS",
    "build_detcon_optimizer",
    "build_finetuning_lr_scheduler",
    "build_finetuning_optimizer",
    "build_pretraining_lr_scheduler",
    "get_detcon_param_groups",
    "resolve_schedule",
]
