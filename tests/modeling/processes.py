"""Runs a function in real gloo processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from detcon_d2.engine.launch import leave_process_group
from tests.prepared import start_processes


def run_processes(job: Callable, count: int, folder: Path, *args: Any) -> list[Any]:
    """``job(rank, *args)`` of each of ``count`` processes; a job is a module's function and returns tensors and plain values."""
    start_processes(_enter, (job, count, str(folder), args), count)
    return [torch.load(folder / f"rank{rank}.pth", weights_only=True) for rank in range(count)]


def _enter(rank: int, job: Callable, count: int, folder: str, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count)
    torch.save(job(rank, *args), f"{folder}/rank{rank}.pth")
    leave_process_group()
