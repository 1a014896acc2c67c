"""The work of the processes of the distributed tests, in a module of its own because spawned processes import it."""

import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from detcon_d2.engine.launch import leave_process_group
from tests.detectron2_subset.conftest import Backend


def join_and_report(rank: int, backend: Backend, world_size: int, per_machine: int, folder: str) -> None:
    """Join a gloo group through a file in ``folder``, then :func:`report`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", world_size=world_size, rank=rank)
    backend.get("utils.comm").create_local_process_group(per_machine)
    report(backend, folder)
    leave_process_group()
    leave_process(backend)


def leave_process(backend: Backend) -> None:
    """End the process at once with Detectron2, which caches the destroyed group: gloo's threads may abort the interpreter at its exit."""
    if backend.name == "detectron2":
        os._exit(0)


def report(backend: Backend, folder: str) -> None:
    """Write the results of every function of comm in this process to ``<rank>.json``."""
    comm = backend.get("utils.comm")
    rank = comm.get_rank()
    np.random.seed(rank)
    reduced = comm.reduce_dict({"b": torch.tensor(rank + 1.0), "a": torch.tensor(10.0)})
    result = {
        "world_size": comm.get_world_size(),
        "rank": rank,
        "local_rank": comm.get_local_rank(),
        "local_size": comm.get_local_size(),
        "main": comm.is_main_process(),
        "all_gather": comm.all_gather({"rank": rank, "list": [None, "x"] * rank}),
        "gather": comm.gather(rank * 11),
        "gather_to_1": comm.gather(rank, dst=1),
        "local": comm.all_gather(rank, group=comm.get_local_process_group()),
        "seed": comm.shared_random_seed(),
        # Only rank 0 has the results.
        "reduced": {name: value.item() for name, value in reduced.items()} if rank == 0 else None,
    }
    comm.synchronize()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(result))
