"""Target networks: exponential moving averages of the online parameters."""

import copy
import math

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def target_network(**modules: nn.Module) -> nn.ModuleDict:
    """Copies of the online modules by name, for an attribute ``target``; they receive no gradient."""
    return nn.ModuleDict({name: copy.deepcopy(module) for name, module in modules.items()}).requires_grad_(False)


def check_copied(cfg: CfgNode) -> list[tuple[bool, str, object, str]]:
    """The check of a method whose target cannot start from an initialisation of its own, for ``check_config``."""
    return [(cfg.DETCON.EMA.INIT == "copy", "DETCON.EMA.INIT", cfg.DETCON.EMA.INIT, "'copy': the target starts as the online network")]


def ema_momentum(iteration: int, max_iter: int, base_momentum: float) -> float:
    """tau = 1 - (1 - tau_0) (cos(pi t / T) + 1) / 2 (method.md, "Networks"): from tau_0 at the start to 1 at the end.

    Args:
        iteration: t >= 0; behind T the momentum stays 1.
        max_iter: T > 0.
        base_momentum: tau_0 in [0, 1].

    Raises:
        ValueError: for arguments out of range.
    """
    if iteration < 0 or max_iter <= 0 or not 0 <= base_momentum <= 1:
        raise ValueError(
            f"iteration {iteration}, max_iter {max_iter}, base_momentum {base_momentum}; "
            "expected iteration >= 0, max_iter > 0 and base_momentum in [0, 1]."
        )
    progress = min(iteration / max_iter, 1.0)
    return 1.0 - (1.0 - base_momentum) * (math.cos(math.pi * progress) + 1.0) / 2.0


@torch.no_grad()
def update_ema(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target = momentum * target + (1 - momentum) * online for every parameter, in place. Buffers are not averaged.

    Args:
        target, online: of the same architecture; the online one not wrapped by DistributedDataParallel.
        momentum: tau in [0, 1].

    Raises:
        ValueError: if names or shapes of the parameters differ; nothing is changed then.
    """
    targets, onlines = dict(target.named_parameters()), dict(online.named_parameters())
    if missing := targets.keys() ^ onlines.keys():
        raise ValueError(
            f"Target and online network have different parameters, first {min(missing)!r}. "
            "Expected the same architecture, and the module itself where DistributedDataParallel wraps it."
        )
    for name, parameter in targets.items():
        if parameter.shape != onlines[name].shape:
            raise ValueError(f"{name} is {tuple(parameter.shape)} in the target, but {tuple(onlines[name].shape)} in the online network.")
    if targets:
        get_ema_multi_avg_fn(momentum)(list(targets.values()), [onlines[name] for name in targets], None)
