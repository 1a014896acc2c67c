"""Speed of the pretraining step over processes: the same images a process, so that the ideal is the same time a step."""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from measure_step import Problem, build_step
from timing import alternate

from detcon_d2 import d2
from detcon_d2.engine.launch import launch


def measure_processes(problem: Problem, counts: list[int], rounds: int, threads: int) -> dict[int, float]:
    """Median seconds of a step with each number of processes.

    Args:
        problem: what each process does.
        counts: numbers of processes; on CUDA one GPU each.
        rounds: steps that are measured.
        threads: of PyTorch in each process.
    """
    medians = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "seconds.json"
            args = argparse.Namespace(
                num_gpus=count,
                num_machines=1,
                machine_rank=0,
                dist_url="auto",
                problem=problem,
                rounds=rounds,
                threads=threads,
                result=str(result),
            )
            launch(_time_steps, args)
            medians[count] = statistics.median(json.loads(result.read_text()))
    return medians


def _time_steps(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    seconds = alternate({"step": build_step(args.problem)}, args.rounds)["step"]
    if d2.comm.is_main_process():
        Path(args.result).write_text(json.dumps(seconds))


def lines(medians: dict[int, float], images: int) -> list[str]:
    """The report, for people: images/s of all processes, and which part of so many times one process's that is."""
    first = min(medians)
    rate = {count: count * images / seconds for count, seconds in medians.items()}
    return [
        f"{count} process{'es' if count > 1 else '  '} {medians[count]:8.3f} s a step {rate[count]:8.1f} images/s   "
        f"{100 * rate[count] * first / (rate[first] * count):.0f} % of linear"
        for count in sorted(medians)
    ]
