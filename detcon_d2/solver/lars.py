"""LARS, the optimizer of BYOL and DetCon, and the kinds of it that other methods published."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

KINDS = ("byol", "simclr", "larc", "pixpro")
"""Values of DETCON.SOLVER.LARS_KIND."""

_EPSILON = 1e-8


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017), as in the released code (method.md, "Optimisation").

    For every parameter p with gradient g::

        g = g + weight_decay * p
        g = g * eta * |p| / |g|      if ``lars``; factor 1 if either norm is 0
        m = momentum * m + g
        p = p - lr * m

    That is the kind "byol". "simclr" (google-research/simclr, tf2/lars_optimizer.py) multiplies by the learning rate before the momentum:
    ``m = momentum * m + lr * g; p = p - m``. "pixpro" (zdaxie/PixPro, contrast/lars.py) divides by ``|g| + 1e-8``. "larc" (NVIDIA's apex,
    clip False) divides by ``|g| + weight_decay * |p| + 1e-8`` with the norm of g before weight decay; where either norm is 0, g stays as it
    is, without decay.

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
        kind: str = "byol",
    ):
        """
        Args:
            params: parameters or groups; a group may override every other argument.
            lr, momentum, weight_decay: >= 0.
            eta: trust coefficient > 0.
            lars: scale the step by the parameter's norm over the gradient's norm.
            kind: one of :data:`KINDS`, of all groups.

        Raises ValueError for a number out of range or an unknown kind.
        """
        if kind not in KINDS:
            raise ValueError(f"LARS: kind is {kind!r}; expected one of {', '.join(KINDS)}.")
        self.kind = kind
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
        decay, eta = group["weight_decay"], group["eta"]
        decayed = torch._foreach_add(grads, params, alpha=decay) if decay else grads
        if group["lars"]:
            ratios = self._trust_ratios(params, grads if self.kind == "larc" else decayed, eta, decay)
            if self.kind == "larc":
                # Weight decay acts only where the ratio does.
                decayed = [torch.where(ratio > 0, new, old) for ratio, new, old in zip(ratios, decayed, grads)]
                ratios = [torch.where(ratio > 0, ratio, 1.0) for ratio in ratios]
            decayed = torch._foreach_mul(decayed, ratios)
        buffers = [self._momentum_buffer(p) for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        inside = self.kind == "simclr"
        torch._foreach_add_(buffers, decayed, alpha=group["lr"] if inside else 1)
        torch._foreach_add_(params, buffers, alpha=-1 if inside else -group["lr"])

    def _trust_ratios(self, params: list[torch.Tensor], grads: list[torch.Tensor], eta: float, decay: float) -> list[torch.Tensor]:
        """eta |p| / |g| for each parameter by the kind's formula; where either norm is 0, 1 (larc: 0). As zero-dimensional tensors, so that
        no value leaves the device."""
        p_norm, g_norm = (torch.stack(torch._foreach_norm(tensors)) for tensors in (params, grads))
        divisor = {"larc": g_norm + decay * p_norm + _EPSILON, "pixpro": g_norm + _EPSILON}.get(self.kind, g_norm)
        ratio = torch.where((p_norm > 0) & (g_norm > 0), eta * p_norm / divisor, 0.0 if self.kind == "larc" else 1.0)
        return list(ratio.unbind())

    def _momentum_buffer(self, parameter: torch.Tensor) -> torch.Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]
