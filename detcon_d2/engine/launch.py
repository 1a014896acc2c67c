"""Start one process per device: under torchrun, under SLURM's srun, or as processes of this one, with NCCL on GPUs and gloo on the CPU."""

import argparse
import contextlib
import ctypes
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any

import torch
import torch.distributed as dist

from detcon_d2 import d2
from detcon_d2.engine.hooks import StopOnSignalHook
from detcon_d2.engine.setup import load_config

TIMEOUT = timedelta(minutes=30)
GRACE_SECONDS = 60.0
"""How long the other processes may take to end when one has failed: they may be writing a checkpoint, or wait for the failed one."""
START = multiprocessing.get_context("spawn")
"""Processes start as new interpreters, because CUDA does not survive a fork. Tests on the CPU replace this by what starts faster."""


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
    """Run ``main(args)`` in every process of the job, and return when all of them have ended.

    SIGTERM, SIGUSR1 and SIGINT to this process are passed to the processes that it has started. When one of them fails, the others have
    :data:`GRACE_SECONDS` to end; its error is the last line that is printed. If it ended with a message for the user (SystemExit with a
    text, or with a code above 1 after it printed one), errors of the others, which have lost it, are not printed.

    Args:
        main: picklable; called once per process. If there are several processes, the process group is initialised before.
        args: of Detectron2's ``default_argument_parser``: num_gpus (number of gloo processes without CUDA or with MODEL.DEVICE cpu),
            num_machines, machine_rank, dist_url (used by several machines only), config_file, opts.

    Raises:
        ValueError: see :func:`check_processes`.
        SystemExit: with the exit code of the process that failed first.
    """
    environment = cluster_environment(os.environ)
    if environment is not None:
        _run(environment, "env://", main, args)
    elif args.num_gpus * args.num_machines <= 1:
        main(args)
    else:
        check_processes(args)
        with tempfile.TemporaryDirectory() as folder:
            _spawn(args.dist_url if args.num_machines > 1 else f"file://{folder}/store", main, args)


def check_processes(args: argparse.Namespace) -> None:
    """Refuse numbers of processes that cannot be started here. Under torchrun and srun the flags have no effect.

    Raises:
        ValueError: several machines without CUDA or without an address, or more processes than GPUs.
    """
    if cluster_environment(os.environ) is not None or args.num_gpus * args.num_machines <= 1:
        return
    if args.num_machines > 1 and not _on_gpus(args):
        raise ValueError("--num-machines needs CUDA. On several CPU machines, start the processes with torchrun or srun.")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("--dist-url is auto; with several machines expected the address of machine 0, as tcp://host:port.")
    if _on_gpus(args) and args.num_gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus is {args.num_gpus}, but there are {torch.cuda.device_count()} GPUs here.")


def _on_gpus(args: argparse.Namespace) -> bool:
    """Whether the job runs on GPUs. A config that cannot be read is reported by ``main``."""
    if not torch.cuda.is_available():
        return False
    with contextlib.suppress(ValueError, OSError):
        return load_config(getattr(args, "config_file", ""), getattr(args, "opts", [])).MODEL.DEVICE.split(":")[0] != "cpu"
    return True


def _spawn(init_method: str, main: Callable, args: argparse.Namespace) -> None:
    errors, error_sender = START.Pipe(duplex=False)
    # Exit code of a process that has ended with a message for the user, or 0.
    explained = START.RawValue(ctypes.c_int, 0)
    processes = [
        START.Process(target=_spawned, args=(local_rank, init_method, error_sender, explained, main, args))
        for local_rank in range(args.num_gpus)
    ]

    def forward(*_: object) -> None:
        # As SIGTERM: a terminal sends its SIGINT to every process, and a second SIGINT would interrupt the checkpoint that they write.
        for process in processes:
            if process.pid is not None and process.exitcode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)

    with _handled(signal.SIG_IGN):
        # Python's helper process inherits this; it would die of a scheduler's SIGUSR1 to every process of the job, and print tracebacks.
        resource_tracker.ensure_running()
    with _handled(forward):
        for process in processes:
            process.start()
        first = _wait(processes)
    if first is not None:
        rank = args.machine_rank * args.num_gpus + processes.index(first)
        ended = f"{os.path.basename(sys.argv[0])}: process {rank} was ended by signal {-first.exitcode}."
        message = errors.recv() if errors.poll() else ended if first.exitcode < 0 else ""
        if message:
            print(message, file=sys.stderr)
        raise SystemExit(first.exitcode if first.exitcode > 0 else 128 - first.exitcode)


def _wait(processes: list[multiprocessing.Process]) -> multiprocessing.Process | None:
    """Wait for all processes; return the first that failed. Those that outlive it by :data:`GRACE_SECONDS` are killed."""
    running, first, deadline = list(processes), None, None
    while running:
        wait_for_any([process.sentinel for process in running], None if deadline is None else max(0, deadline - time.monotonic()))
        ended = [process for process in running if process.exitcode is not None]
        running = [process for process in running if process not in ended]
        first = first or next((process for process in ended if process.exitcode), None)
        if first is not None and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
        elif deadline is not None and time.monotonic() >= deadline:
            for process in running:
                process.kill()
    return first


@contextlib.contextmanager
def _handled(handler: Callable | int) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in StopOnSignalHook.SIGNALS}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _spawned(
    local_rank: int, init_method: str, errors: Connection, explained: ctypes.c_int, main: Callable, args: argparse.Namespace
) -> None:
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    # Where Detectron2 logs a traceback of each Exception, and where the subset does.
    for name in ("detectron2.engine.train_loop", "detectron2.engine"):
        logging.getLogger(name).addFilter(lambda record: not (record.exc_info and explained.value))
    # A spawned process would spawn its data workers, too, and each of them import everything again. They are forked, as under torchrun.
    multiprocessing.set_start_method(None, force=True)
    rank = args.machine_rank * args.num_gpus + local_rank
    values = {"RANK": rank, "WORLD_SIZE": args.num_gpus * args.num_machines, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": args.num_gpus}
    try:
        _run({name: str(value) for name, value in values.items()}, init_method, main, args)
    # What is sent before this process ends, which the others notice, comes first: it is the cause. A pipe takes short messages whole.
    except SystemExit as stop:
        code = 1 if isinstance(stop.code, str) else stop.code
        if isinstance(stop.code, str):
            _send(errors, stop.code)
            explained.value = code
        elif code not in (None, 0, 1):
            _send(errors, "")  # this process has printed the reason
            explained.value = code
        raise SystemExit(code) from None
    except Exception as error:
        if explained.value:
            # Most likely the connection to the process that ended was lost. A traceback of this would hide the reason.
            raise SystemExit(explained.value) from None
        _send(errors, f"{os.path.basename(sys.argv[0])}: process {rank} failed: {type(error).__name__}: {error}")
        raise
    finally:
        # After an error, too: see leave_process_group. A group of NCCL could wait for its lost members here.
        if dist.is_initialized() and dist.get_backend() == "gloo":
            with contextlib.suppress(Exception):
                leave_process_group()


def _send(errors: Connection, message: str) -> None:
    try:
        errors.send(message[:1000])
    except BrokenPipeError:  # the parent has been killed
        print(message, file=sys.stderr)


def _stop_with_parent() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)


def _run(environment: Mapping[str, str], init_method: str, main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    os.environ.update(environment)
    cuda = _on_gpus(args)
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
    for name in ("_get_global_gloo_group", "_gloo_group"):  # Detectron2's name, and the subset's
        clear = getattr(getattr(d2.comm, name, None), "cache_clear", None)
        if clear is not None:
            clear()
    dist.destroy_process_group()


def _first_host(nodelist: str) -> str:
    """``"node[03-04,07],other1"`` -> ``"node03"``."""
    return re.sub(r"\[(\w+).*?\]", r"\1", re.match(r"[^,\[]+(\[[^\]]*\])?[^,]*", nodelist).group())
