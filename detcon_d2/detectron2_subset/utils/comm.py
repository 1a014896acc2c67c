"""Communication between processes. Every function also works in a single process without ``torch.distributed``."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_local_group: dist.ProcessGroup | None = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Return the rank of this process among all processes; 0 without a process group."""
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    """Return whether this process has rank 0."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create the group of the processes on this machine. Every process calls it once, after ``init_process_group``.

    The ranks must be numbered machine by machine, with ``num_workers_per_machine`` processes on each machine.
    """
    global _local_group
    world_size, rank = get_world_size(), get_rank()
    assert _local_group is None, "The local process group exists already."
    assert world_size % num_workers_per_machine == 0, f"{world_size} processes on machines of {num_workers_per_machine}"
    for first in range(0, world_size, num_workers_per_machine):
        ranks = range(first, first + num_workers_per_machine)
        # new_group is a collective operation: every process creates every group and keeps its own.
        group = dist.new_group(list(ranks))
        if rank in ranks:
            _local_group = group
    synchronize()


def get_local_process_group() -> dist.ProcessGroup:
    """Return the group of the processes on this machine."""
    assert _local_group is not None, "Call comm.create_local_process_group(processes per machine) first."
    return _local_group


def get_local_rank() -> int:
    """Return the rank of this process among the processes on its machine."""
    return dist.get_rank(get_local_process_group()) if _is_distributed() else 0


def get_local_size() -> int:
    """Return the number of processes on this machine."""
    return dist.get_world_size(get_local_process_group()) if _is_distributed() else 1


def synchronize() -> None:
    """Wait until every process has called this function."""
    if get_world_size() > 1:
        # Without the device, NCCL would guess it from the global rank.
        dist.barrier(device_ids=[torch.cuda.current_device()] if dist.get_backend() == "nccl" else None)


@functools.lru_cache(maxsize=1)
def _gloo_group() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo")


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return the ``data`` (any object that can be pickled) of every process of ``group`` (default: all processes), in rank order."""
    if get_world_size() == 1:
        return [data]
    if group is None and dist.get_backend() == "nccl":
        # Pickled objects are bytes on the CPU, which NCCL cannot send. With gloo the default group can, and no other group is cached: a
        # cached group that outlives destroy_process_group sometimes aborts the process at its exit.
        group = _gloo_group()
    output = [None] * dist.get_world_size(group)
    dist.all_gather_object(output, data, group=group)
    return output


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return the result of :func:`all_gather` on process ``dst``, and an empty list on the other processes."""
    everything = all_gather(data, group)
    return everything if get_rank() == dst else []


def shared_random_seed() -> int:
    """Return a random number in [0, 2**31) from the global numpy generator of rank 0; it is the same on all processes."""
    return all_gather(int(np.random.randint(2**31)))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Average scalar tensors of the same names over all processes. Only rank 0 gets the result."""
    if get_world_size() == 1:
        return input_dict
    names = sorted(input_dict)
    values = torch.stack([input_dict[name].detach() for name in names])
    dist.reduce(values, dst=0)
    if is_main_process():
        values /= get_world_size()
    return dict(zip(names, values, strict=True))
