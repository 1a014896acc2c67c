"""Start one process a device: under torchrun, under SLURM's srun, by Detectron2's ``launch``, or as gloo processes on the CPU."""

import argparse
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detcon_d2 import d2

TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class ClusterProcess:
    """What a launcher told this process about itself."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    init_method: str


def cluster_process(environ: Mapping[str, str]) -> ClusterProcess | None:
    """Read torchrun's or srun's environment variables; None when this process was started by neither.

    torchrun: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT. srun: SLURM_PROCID, SLURM_STEP_NUM_TASKS,
    SLURM_LOCALID, SLURM_STEP_TASKS_PER_NODE, and SLURM_STEP_NODELIST's first host unless MASTER_ADDR is set (MASTER_PORT: from the job id).
    A batch script's own shell is no step of srun and is left alone.
    """
    if "TORCHELASTIC_RUN_ID" in environ or ("RANK" in environ and "LOCAL_RANK" in environ):
        return ClusterProcess(
            rank=int(environ["RANK"]),
            world_size=int(environ["WORLD_SIZE"]),
            local_rank=int(environ["LOCAL_RANK"]),
            local_world_size=int(environ["LOCAL_WORLD_SIZE"]),
            init_method="env://",
        )
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        host = environ.get("MASTER_ADDR") or _first_host(environ["SLURM_STEP_NODELIST"])
        port = environ.get("MASTER_PORT") or str(20000 + int(environ.get("SLURM_JOB_ID", "0")) % 20000)
        return ClusterProcess(
            rank=int(environ["SLURM_PROCID"]),
            world_size=int(environ["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(environ["SLURM_LOCALID"]),
            local_world_size=int(re.match(r"\d+", environ["SLURM_STEP_TASKS_PER_NODE"]).group()),
            init_method=f"tcp://{host}:{port}",
        )
    return None


def launch(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in every process of the job.

    Args:
        main: picklable; called once a process, with the process group up where there are several.
        args: of Detectron2's ``default_argument_parser``: num_gpus (without CUDA: gloo processes), num_machines, machine_rank, dist_url.
    """
    process = cluster_process(os.environ)
    if process is not None:
        _run(process, main, args)
    elif torch.cuda.is_available():
        d2.launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
    elif args.num_gpus <= 1:
        main(args)
    elif args.num_machines > 1:
        raise ValueError("--num-machines needs CUDA; on CPU machines start the processes with torchrun or srun.")
    else:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_spawned, (args.num_gpus, f"file://{folder}/store", main, args), nprocs=args.num_gpus)


def _spawned(rank: int, world_size: int, init_method: str, main: Callable, args: argparse.Namespace) -> None:
    _run(ClusterProcess(rank, world_size, rank, world_size, init_method), main, args)


def _run(process: ClusterProcess, main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    cuda = torch.cuda.is_available()
    if cuda:
        # A launcher may show every process all GPUs of the machine, or its own only.
        torch.cuda.set_device(process.local_rank % torch.cuda.device_count())
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=process.init_method,
        world_size=process.world_size,
        rank=process.rank,
        timeout=TIMEOUT,
    )
    d2.comm.create_local_process_group(process.local_world_size)
    d2.comm.synchronize()
    main(args)
    leave_process_group()


def leave_process_group() -> None:
    """End torch.distributed in this process, so that the process ends, too."""
    # Detectron2 caches the world's gloo group; a group that outlives the process group can abort the process at its exit.
    clear = getattr(getattr(d2.comm, "_get_global_gloo_group", None), "cache_clear", None)
    if clear is not None:
        clear()
    # With torch 2.15 a process that keeps its gloo group often aborts at its exit; with 2.4 one that destroys it may wait for ever.
    if torch.__version__.startswith("2.4.") and dist.get_backend() == "gloo":
        return
    dist.destroy_process_group()


def _first_host(nodelist: str) -> str:
    """``"node[03-04,07],other1"`` -> ``"node03"``."""
    return re.sub(r"\[(\w+).*?\]", r"\1", re.match(r"[^,\[]+(\[[^\]]*\])?[^,]*", nodelist).group())
