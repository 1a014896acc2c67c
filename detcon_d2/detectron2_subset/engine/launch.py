"""Starting the processes of a distributed run."""

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..utils import comm


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = timedelta(minutes=30),
) -> None:
    """Run ``main_func(*args)`` in ``num_gpus_per_machine`` processes on each machine. Call it on every machine.

    If there is one process in total, the function runs in this process, without a process group. Several processes use NCCL with one GPU
    each if CUDA is available, otherwise gloo.

    Args:
        main_func: a function of a module, because it is pickled.
        num_gpus_per_machine: the number of processes on each machine.
        num_machines: the number of machines.
        machine_rank: the number of this machine, from 0.
        dist_url: the address at which rank 0 listens, for example "tcp://127.0.0.1:8686"; "auto" takes a free port of this machine.
            ValueError for "auto" with several machines.
        args: the arguments of ``main_func``.
        timeout: of collective operations.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        if num_machines > 1:
            raise ValueError(f"dist_url is 'auto' with {num_machines} machines; expected the address of machine 0, as tcp://host:port.")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            dist_url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    group = {"init_method": dist_url, "world_size": world_size, "timeout": timeout}
    mp.spawn(_worker, (num_gpus_per_machine, machine_rank, group, main_func, args), nprocs=num_gpus_per_machine)


def _worker(local_rank: int, local_size: int, machine_rank: int, group: dict[str, Any], main_func: Callable, args: tuple) -> None:
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if cuda else "gloo", rank=machine_rank * local_size + local_rank, **group)
    comm.create_local_process_group(local_size)
    main_func(*args)
    if dist.is_initialized():
        dist.destroy_process_group()
