"""Build the optimizer of a config."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from detcon_d2 import d2
from detcon_d2.solver.lars import LARS

# _NormBase is the base of BatchNorm, SyncBatchNorm and InstanceNorm of any dimension, and of Detectron2's NaiveSyncBatchNorm. Its
# FrozenBatchNorm2d has no parameters. Other norms with one-dimensional weights are recognised by their number of axes.
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def get_detcon_param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of the parameters that require grad, in the model's order, each parameter once (method.md, "Optimisation").

    The first has weight decay and LARS adaptation. The second has neither: biases, parameters of norm layers, and all other parameters
    with at most one axis.

    Returns:
        Two dicts with ``params``, ``weight_decay`` and ``lars`` for a torch optimizer; either list may be empty.
    """
    adapted: list[nn.Parameter] = []
    excluded: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            exclude = name == "bias" or parameter.ndim <= 1 or isinstance(module, _NORMS)
            (excluded if exclude else adapted).append(parameter)
    return [{"params": adapted, "weight_decay": weight_decay, "lars": True}, {"params": excluded, "weight_decay": 0.0, "lars": False}]


def build_detcon_optimizer(cfg: "d2.CfgNode", model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer DETCON.SOLVER.OPTIMIZER for the groups of :func:`get_detcon_param_groups`.

    Reads SOLVER.BASE_LR, MOMENTUM, NESTEROV (SGD only) and WEIGHT_DECAY, and DETCON.SOLVER.ETA (LARS only).

    Raises ValueError for an unknown optimizer, or a model without trainable parameters.
    """
    name, solver = cfg.DETCON.SOLVER.OPTIMIZER, cfg.SOLVER
    groups = get_detcon_param_groups(model, solver.WEIGHT_DECAY)
    if not any(group["params"] for group in groups):
        raise ValueError("The model has no parameter that requires grad; check MODEL.BACKBONE.FREEZE_AT.")
    if name == "LARS":
        return LARS(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, eta=cfg.DETCON.SOLVER.ETA)
    if name == "SGD":
        return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    if name == "AdamW":
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, fused=True)
    raise ValueError(f"DETCON.SOLVER.OPTIMIZER is {name!r}; expected 'LARS', 'SGD' or 'AdamW'.")


def build_finetuning_optimizer(cfg: "d2.CfgNode", model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer DETCON.FINETUNE.OPTIMIZER of a detector, with Detectron2's gradient clipping.

    SGD is Detectron2's, with its keys for biases and norms. AdamW has weight decay only in the first of :func:`get_detcon_param_groups`.

    Raises ValueError for an unknown optimizer.
    """
    name, solver = cfg.DETCON.FINETUNE.OPTIMIZER, cfg.SOLVER
    if name == "SGD":
        return d2.build_optimizer(cfg, model)
    if name == "AdamW":
        clipped = d2.maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        return clipped(get_detcon_param_groups(model, solver.WEIGHT_DECAY), lr=solver.BASE_LR, fused=True)
    raise ValueError(f"DETCON.FINETUNE.OPTIMIZER is {name!r}; expected 'SGD' or 'AdamW'.")
