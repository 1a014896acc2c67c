"""LARS, the optimizer of BYOL and DetCon."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.optimizer import Optimizer


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017), as in the released code (method.md, "Optimisation").

    For every parameter p with gradient g::

        g = g + weight_decay * p
        g = g * eta * |p| / |g|      if ``lars``; factor 1 if either norm is 0
        m = momentum * m + g
        p = p - lr * m

    A group with ``lars=False`` is plain SGD with momentum. The state of a parameter is ``momentum_buffer``, of its shape and dtype.
    A step copies no value to the host, so it does not wait for the GPU.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
        lars: bool = True,
    ):
        """
        Args:
            params: parameters or groups; a group may override every other argument.
            lr, momentum, weight_decay: >= 0.
            eta: trust coefficient > 0.
            lars: scale the step by the parameter's norm over the gradient's norm.

        Raises ValueError for a number out of range.
        """
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "lars": lars})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in every torch optimizer; raises ValueError for a number out of range."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name in ("lr", "momentum", "weight_decay"):
            if not group[name] >= 0:
                raise ValueError(f"LARS: {name} is {group[name]}; expected a number >= 0.")
        if not group["eta"] > 0:
            raise ValueError(f"LARS: eta is {group['eta']}; expected a number > 0 (the paper's is 0.001).")

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """One step over all parameters that have a gradient; returns what ``closure`` returns.

        Raises RuntimeError for a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        grads = [p.grad for p in params]
        if any(grad.is_sparse for grad in grads):
            raise RuntimeError("LARS does not support sparse gradients; build the layer with sparse=False.")
        if group["weight_decay"]:
            grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
        if group["lars"]:
            grads = torch._foreach_mul(grads, _trust_ratios(params, grads, group["eta"]))
        buffers = [self._momentum_buffer(p) for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, grads)
        torch._foreach_add_(params, buffers, alpha=-group["lr"])

    def _momentum_buffer(self, parameter: torch.Tensor) -> torch.Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def _trust_ratios(params: list[torch.Tensor], grads: list[torch.Tensor], eta: float) -> list[torch.Tensor]:
    """eta |p| / |g| for each parameter, 1 if either norm is 0; as zero-dimensional tensors, so that no value leaves the device."""
    p_norm, g_norm = (torch.stack(torch._foreach_norm(tensors)) for tensors in (params, grads))
    ratio = torch.where((p_norm > 0) & (g_norm > 0), eta * p_norm / g_norm, 1.0)
    return list(ratio.unbind())
