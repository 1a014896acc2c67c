#!/usr/bin/env python
"""How the pretraining step scales over processes of this machine: gloo on CPUs, NCCL on GPUs, with the same images per process."""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from machine import describe_machine
from step import StepProblem, add_step_arguments, build_step, usual_amp
from timing import alternate, benchmark_parser, write_json

from detcon_d2 import d2
from detcon_d2.engine.launch import launch

_EPILOG = """
examples
  python tools/benchmarks/scaling.py                              # 1 and 2 processes with one thread each, ResNet-18, 97 px, 32 images each
  python tools/benchmarks/scaling.py --device cuda --processes 1 2 4 8 --depth 50 --size 224 --images 256
How the loss grows with N, K and M: tools/benchmarks/loss.py --growth; the loader over workers: tools/benchmarks/pipeline.py --workers 0 1 2
"""


def measure_processes(problem: StepProblem, counts: list[int], rounds: int, threads: int) -> dict[int, float]:
    """Median seconds of a step for each number of processes.

    Args:
        problem: the step of each process.
        counts: numbers of processes; on CUDA each has a GPU of its own.
        rounds: measured steps.
        threads: threads of PyTorch in each process.
    """
    medians = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "seconds.json"
            job = {"problem": problem, "rounds": rounds, "threads": threads, "result": result}
            launch(_time_steps, argparse.Namespace(num_gpus=count, num_machines=1, machine_rank=0, dist_url="auto", **job))
            medians[count] = statistics.median(json.loads(result.read_text()))
    return medians


def describe_scaling(medians: dict[int, float], images: int) -> list[str]:
    """Images/s of all processes together, and their share of linear scaling, as text."""
    first = min(medians)
    rate = {count: count * images / seconds for count, seconds in medians.items()}
    return [
        f"{count} process{'es' if count > 1 else '  '} {medians[count]:8.3f} s per step {rate[count]:8.1f} images/s   "
        f"{100 * rate[count] * first / (rate[first] * count):.0f} % of linear"
        for count in sorted(medians)
    ]


def _time_steps(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    seconds = alternate({"step": build_step(args.problem)}, args.rounds)["step"]
    if d2.comm.is_main_process():
        args.result.write_text(json.dumps(seconds))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__, _EPILOG, rounds=5)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    add_step_arguments(parser, StepProblem(depth=18, images=32, size=97))
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch in each process (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure and print; see ``--help``."""
    args = parse_args()
    problem = StepProblem(args.method, args.depth, args.images, args.size, args.device, usual_amp(args.device))
    medians = measure_processes(problem, args.processes, args.rounds, args.threads)
    print(*describe_scaling(medians, args.images), sep="\n")
    if args.json:
        result = {"machine": describe_machine(), "problem": problem._asdict(), "threads": args.threads, "seconds": medians}
        write_json(args.json, result)


if __name__ == "__main__":
    main()
