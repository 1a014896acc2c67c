"""Gather tensors over processes, with the gradient that training under DistributedDataParallel needs."""

import torch
from torch import distributed as dist


def process_rank_and_count() -> tuple[int, int]:
    """(rank, R) of torch.distributed's default group; (0, 1) if it is not initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_processes(x: torch.Tensor) -> torch.Tensor:
    """``x`` of every process, in the order of the ranks: shape (R, *x.shape), the same dtype and device.

    This is a collective: every process must call it with the same shape and dtype. Differentiable iff ``x`` requires grad, which must be
    the same in every process. The gradient of a process's ``x`` is the sum of its gradients in all processes; DistributedDataParallel
    averages the parameters' gradients, which then are those of the mean loss over the processes. Works with any backend.
    """
    if process_rank_and_count()[1] == 1:
        return x.unsqueeze(0)
    return _Gather.apply(x)


class _Gather(torch.autograd.Function):
    # torch.distributed.nn.functional.all_gather is deprecated, and torch 2.4 does not have its successor.

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        gathered = x.new_empty((dist.get_world_size(), *x.shape))
        dist.all_gather(list(gathered.unbind(0)), x.contiguous())
        return gathered

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        # reduce_scatter would send less, but gloo supports it only in newer versions of torch.
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[dist.get_rank()]
