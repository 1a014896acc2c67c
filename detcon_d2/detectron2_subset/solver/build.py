"""The optimizer, its parameter groups and the learning-rate schedule from the config keys under ``SOLVER``."""

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common import param_scheduler as schedules
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..config import CfgNode
from .lr_scheduler import LRMultiplier, WarmupParamScheduler

_NAMES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Build SGD over the trainable parameters of ``model``, with gradient clipping if the config enables it."""
    s = cfg.SOLVER
    optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
    groups = _parameter_groups(s, model)
    return optimizer(groups, s.BASE_LR, momentum=s.MOMENTUM, nesterov=s.NESTEROV, weight_decay=s.WEIGHT_DECAY, foreach=True)


def _parameter_groups(solver: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """Return one group for each distinct set of hyperparameters, without the frozen parameters.

    Normalisation layers have the weight decay WEIGHT_DECAY_NORM; parameters named "bias", also those of normalisation layers, have
    WEIGHT_DECAY_BIAS and a learning rate multiplied by BIAS_LR_FACTOR. A key that is None changes nothing.
    """
    groups: dict[tuple, list[nn.Parameter]] = defaultdict(list)
    # named_parameters, unlike a walk over the modules, yields a shared parameter once, under its first name.
    for full_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        module_name, _, name = full_name.rpartition(".")
        hyper = {"lr": solver.BASE_LR}
        if solver.WEIGHT_DECAY_NORM is not None and isinstance(model.get_submodule(module_name), _NORMS):
            hyper["weight_decay"] = solver.WEIGHT_DECAY_NORM
        if name == "bias" and solver.BIAS_LR_FACTOR is not None:
            hyper["lr"] *= solver.BIAS_LR_FACTOR
        if name == "bias" and solver.WEIGHT_DECAY_BIAS is not None:
            hyper["weight_decay"] = solver.WEIGHT_DECAY_BIAS
        groups[tuple(hyper.items())].append(parameter)
    return [{**dict(hyper), "params": parameters} for hyper, parameters in groups.items()]


def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: type[Optimizer]) -> type[Optimizer]:
    """Return a subclass of ``optimizer`` whose ``step`` first clips gradients, or ``optimizer`` itself if the config disables clipping.

    ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` "value" clips each element to [-CLIP_VALUE, CLIP_VALUE]; "norm" scales the gradient of each single
    parameter to a norm (of order NORM_TYPE) of at most CLIP_VALUE. ValueError for another type.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS.clone()
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE not in ("value", "norm"):
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; expected 'value' or 'norm'.")

    def step(self: Optimizer, closure: Callable | None = None) -> Any:
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if clip.CLIP_TYPE == "value":
                nn.utils.clip_grad_value_(parameter, clip.CLIP_VALUE)
            else:
                nn.utils.clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.NORM_TYPE)
        return optimizer.step(self, closure)

    return type(f"{optimizer.__name__}WithGradientClip", (optimizer,), {"step": step})


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """Build the schedule ``SOLVER.LR_SCHEDULER_NAME`` (WarmupMultiStepLR, WarmupCosineLR or WarmupStepWithFixedGammaLR) with its warm-up.

    ValueError for another name, or a BASE_LR_END above BASE_LR.
    """
    s = cfg.SOLVER
    if s.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in s.STEPS if step <= s.MAX_ITER]
        if len(steps) < len(s.STEPS):
            logging.getLogger("detectron2.solver").warning("SOLVER.STEPS beyond SOLVER.MAX_ITER are ignored.")
        values = [s.GAMMA**k for k in range(len(steps) + 1)]
        scheduler = schedules.MultiStepParamScheduler(values, milestones=steps, num_updates=s.MAX_ITER)
    elif s.LR_SCHEDULER_NAME == "WarmupCosineLR":
        if not 0.0 <= s.BASE_LR_END <= s.BASE_LR:
            raise ValueError(f"SOLVER.BASE_LR_END is {s.BASE_LR_END}; expected a value from 0 to SOLVER.BASE_LR = {s.BASE_LR}.")
        scheduler = schedules.CosineParamScheduler(1.0, s.BASE_LR_END / s.BASE_LR)
    elif s.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        scheduler = schedules.StepWithFixedGammaParamScheduler(1.0, s.NUM_DECAYS, s.GAMMA, s.MAX_ITER)
    else:
        raise ValueError(f"Unknown LR scheduler: {s.LR_SCHEDULER_NAME!r}; expected {', '.join(_NAMES)}.")
    length = min(s.WARMUP_ITERS / s.MAX_ITER, 1.0)
    warmup = WarmupParamScheduler(scheduler, s.WARMUP_FACTOR, length, s.WARMUP_METHOD, s.RESCALE_INTERVAL)
    return LRMultiplier(optimizer, warmup, max_iter=s.MAX_ITER)
