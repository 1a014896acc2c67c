"""Start one process per device: under torchrun, under SLURM's srun, with Detectron2's ``launch``, or as gloo processes on the CPU."""

import argparse
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detcon_d2 import d2

TIMEOUT = timedelta(minutes=30)


def cluster_environment(environ: Mapping[str, str]) -> dict[str, str] | None:
    """torchrun's variables RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE of this process, if torchrun or srun started it; else None.

    For srun, MASTER_ADDR and MASTER_PORT are added. The variables follow from SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID and
    SLURM_STEP_TASKS_PER_NODE, the address from the first host of SLURM_STEP_NODELIST and the port from SLURM_JOB_ID, unless MASTER_ADDR or
    MASTER_PORT is set. The shell of a batch script is not a step of srun: None.
    """
    if "TORCHELASTIC_RUN_ID" in environ or ("RANK" in environ and "LOCAL_RANK" in environ):
        return {name: environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return {
            "RANK": environ["SLURM_PROCID"],
            "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
            "LOCAL_RANK": environ["SLURM_LOCALID"],
            "LOCAL_WORLD_SIZE": re.match(r"\d+", environ["SLURM_STEP_TASKS_PER_NODE"]).group(),
            "MASTER_ADDR": environ.get("MASTER_ADDR") or _first_host(environ["SLURM_STEP_NODELIST"]),
            "MASTER_PORT": environ.get("MASTER_PORT") or str(20000 + int(environ.get("SLURM_JOB_ID", "0")) % 20000),
        }
    return None


def launch(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run ``main(args)``, picklable, in every process of the job. If there are several, the process group is initialised before.

    ``args`` are those of Detectron2's ``default_argument_parser``: num_gpus (number of gloo processes if there is no CUDA), num_machines,
    machine_rank, dist_url.
    """
    environment = cluster_environment(os.environ)
    if environment is not None:
        _run(environment, "env://", main, args)
    elif torch.cuda.is_available():
        d2.launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
    elif args.num_gpus <= 1:
        main(args)
    elif args.num_machines > 1:
        raise ValueError("--num-machines needs CUDA. On several CPU machines, start the processes with torchrun or srun.")
    else:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_spawned, (args.num_gpus, f"file://{folder}/store", main, args), nprocs=args.num_gpus)


def _spawned(rank: int, world_size: int, init_method: str, main: Callable, args: argparse.Namespace) -> None:
    environment = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
    _run({name: str(value) for name, value in environment.items()}, init_method, main, args)


def _run(environment: Mapping[str, str], init_method: str, main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    os.environ.update(environment)
    cuda = torch.cuda.is_available()
    if cuda:
        # Some launchers show every process all GPUs of the machine, others only its own.
        torch.cuda.set_device(int(environment["LOCAL_RANK"]) % torch.cuda.device_count())
    rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    dist.init_process_group("nccl" if cuda else "gloo", init_method=init_method, rank=rank, world_size=world_size, timeout=TIMEOUT)
    d2.comm.create_local_process_group(int(environment["LOCAL_WORLD_SIZE"]))
    d2.comm.synchronize()
    main(args)
    leave_process_group()


def leave_process_group() -> None:
    """End torch.distributed in this process, so that the process can exit cleanly."""
    # Detectron2 caches a gloo group of all processes. A process can abort at its exit if that group still exists without its process group.
    clear = getattr(getattr(d2.comm, "_get_global_gloo_group", None), "cache_clear", None)
    if clear is not None:
        clear()
    dist.destroy_process_group()


def _first_host(nodelist: str) -> str:
    """``"node[03-04,07],other1"`` -> ``"node03"``."""
    return re.sub(r"\[(\w+).*?\]", r"\1", re.match(r"[^,\[]+(\[[^\]]*\])?[^,]*", nodelist).group())
