"""Optimizer, parameter groups and learning-rate schedule from the keys under ``SOLVER``."""

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
    """SGD over the trainable parameters of ``model``, with gradient clipping where the config enables it."""
    s = cfg.SOLVER
    groups = get_default_optimizer_params(model, s.BASE_LR, None, s.WEIGHT_DECAY_NORM, s.BIAS_LR_FACTOR, s.WEIGHT_DECAY_BIAS)
    optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
    return optimizer(groups, s.BASE_LR, momentum=s.MOMENTUM, nesterov=s.NESTEROV, weight_decay=s.WEIGHT_DECAY, foreach=True)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups of a torch optimizer, one for each distinct set of hyperparameters; frozen parameters are left out.

    Args:
        model: whose parameters to group; a parameter that is used twice counts once.
        base_lr: learning rate of every group; None: the optimizer's.
        weight_decay: weight decay of every group; None: the optimizer's.
        weight_decay_norm: weight decay of the parameters of normalisation layers; None: as the others.
        bias_lr_factor: factor on the learning rate of parameters named "bias"; other than 1 it needs ``base_lr``.
        weight_decay_bias: weight decay of parameters named "bias", those of normalisation layers too; None: as the others.
        lr_factor_func: factor on the learning rate by full parameter name; needs ``base_lr``.
        overrides: a parameter's last name -> its hyperparameters, above all the others.

    Raises:
        ValueError: ``base_lr`` is missing, or "bias" is in ``overrides`` and set by the bias arguments too.
    """
    if base_lr is None and (lr_factor_func is not None or bias_lr_factor not in (None, 1.0)):
        raise ValueError("lr_factor_func and bias_lr_factor require base_lr")
    bias = {"lr": base_lr * bias_lr_factor} if bias_lr_factor not in (None, 1.0) else {}
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    overrides = dict(overrides or {})
    if bias and "bias" in overrides:
        raise ValueError("Conflicting overrides for 'bias': drop it from overrides, or drop bias_lr_factor and weight_decay_bias.")
    overrides["bias"] = bias or overrides.get("bias", {})
    defaults = {name: value for name, value in (("lr", base_lr), ("weight_decay", weight_decay)) if value is not None}
    groups: dict[tuple, list[nn.Parameter]] = defaultdict(list)
    # named_parameters, unlike a walk over modules, gives a shared parameter once, under its first name.
    for full_name, parameter in model.named_parameters():
        module_name, _, name = full_name.rpartition(".")
        if not parameter.requires_grad:
            continue
        hyper = dict(defaults)
        if weight_decay_norm is not None and isinstance(model.get_submodule(module_name), _NORMS):
            hyper["weight_decay"] = weight_decay_norm
        if lr_factor_func is not None:
            hyper["lr"] *= lr_factor_func(f"{module_name}.{name}")
        groups[tuple({**hyper, **overrides.get(name, {})}.items())].append(parameter)
    return [{**dict(hyper), "params": parameters} for hyper, parameters in groups.items()]


def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: type[Optimizer]) -> type[Optimizer]:
    """A subclass of ``optimizer`` whose ``step`` clips gradients first, or ``optimizer`` itself if the config does not enable clipping.

    ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` "value" clips each element to +- CLIP_VALUE; "norm" scales the gradient of each parameter, taken by
    itself, to a norm (of order NORM_TYPE) of at most CLIP_VALUE.
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
    """The schedule ``SOLVER.LR_SCHEDULER_NAME`` (WarmupMultiStepLR, WarmupCosineLR or WarmupStepWithFixedGammaLR) with its warm-up."""
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
