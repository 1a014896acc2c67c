"""What the processes of the distributed tests run; in a module, because spawned processes import it."""

import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from detcon_d2.engine.launch import leave_process_group
from tests.detectron2_subset.conftest import Backend


def join_and_report(rank: int, backend: Backend, world_size: int, per_machine: int, folder: str) -> None:
    """Join a gloo group by a file in ``folder``, then :func:`report`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", world_size=world_size, rank=rank)
    backend.get("utils.comm").create_local_process_group(per_machine)
    report(backend, folder)
    leave_process_group()
    if backend.name == "detectron2":
        # It keeps the destroyed group in a cache, and gloo's threads may then abort the interpreter at its end.
        os._exit(0)


def report(backend: Backend, folder: str) -> None:
    """Write what every function of comm returns in this process to ``<rank>.json``."""
    comm = backend.get("utils.comm")
    rank = comm.get_rank()
    np.random.seed(rank)
    torch.manual_seed(0)
    reduced = {average: comm.reduce_dict({"b": torch.tensor(rank + 1.0), "a": torch.tensor(10.0)}, average) for average in (True, False)}
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
        "reduced": {str(k): {n: v.item() for n, v in d.items()} for k, d in reduced.items()} if rank == 0 else None,
        "metrics": _metrics(backend, rank),
    }
    comm.synchronize()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(result))


def _metrics(backend: Backend, rank: int) -> dict[str, float]:
    with backend.get("utils.events").EventStorage() as storage:
        losses = {"loss_a": torch.tensor(1.0 + rank), "loss_b": torch.tensor(10.0 * rank)}
        backend.get("engine").SimpleTrainer.write_metrics(losses, data_time=0.25 + rank, cur_iter=0)
    return {name: value for name, (value, _) in storage.latest().items()}
