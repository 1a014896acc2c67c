"""The target network of DetCon_B: an exponential moving average of the online parameters."""

import math

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def ema_momentum(iteration: int, max_iter: int, base_momentum: float) -> float:
    """tau = 1 - (1 - tau_0) (cos(pi t / T) + 1) / 2 (method.md, "Networks"): from tau_0 at the start to 1 at the end.

    ``iteration`` is t >= 0 (behind T the momentum stays 1), ``max_iter`` T > 0, ``base_momentum`` tau_0 in [0, 1]. Raises ValueError for
    arguments out of range.
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
    """target = momentum * target + (1 - momentum) * online for every parameter, in place; ``momentum`` is tau in [0, 1]. Buffers stay.

    Raises ValueError if names or shapes of the parameters differ, as they do where DistributedDataParallel wraps the online network;
    nothing is changed then.
    """
    targets, onlines = dict(target.named_parameters()), dict(online.named_parameters())
    for name in sorted(targets.keys() | onlines.keys()):
        found, expected = (tuple(side[name].shape) if name in side else "absent" for side in (targets, onlines))
        if found != expected:
            raise ValueError(
                f"{name} is {found} in the target, but {expected} in the online network. Expected the same architecture, and the module "
                "itself where DistributedDataParallel wraps it."
            )
    if targets:
        get_ema_multi_avg_fn(momentum)(list(targets.values()), [onlines[name] for name in targets], None)
