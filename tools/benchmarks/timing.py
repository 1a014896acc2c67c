"""Alternated measurements, their ratios, and what the command lines of all benchmarks share."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detcon_d2.io.atomic import write_bytes_atomically

OURS = "ours"
"""Name of this project's implementation in every comparison; variants of it begin with it."""


def alternate(
    functions: dict[Any, Callable[[], object]],
    rounds: int,
    clock: Callable[[], Any] = time.perf_counter,
    wait: Callable[[], object] = lambda: None,
) -> dict[Any, list]:
    """Time several functions alternately, so that a change of the machine's load affects all of them.

    Args:
        functions: what to measure, by name.
        rounds: measured calls of each function, after one that is not measured. Each round begins with another function.
        clock: returns seconds. ``time.process_time`` counts only this process, so other programs on the machine disturb it less.
        wait: part of each measured call; on a GPU ``torch.cuda.synchronize``, because calls return before their work is done.

    Returns:
        Seconds of each measured call, by name, in the order of the rounds.
    """
    seconds = {name: [] for name in functions}
    names = list(functions)
    for index in range(-1, rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            start = clock()
            functions[name]()
            wait()
            elapsed = clock() - start
            if index >= 0:
                seconds[name].append(elapsed)
    return seconds


def median_ratio(a: list[float], b: list[float]) -> float:
    """Median over the rounds of a / b."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def benchmark_parser(description: str, epilog: str, rounds: int) -> argparse.ArgumentParser:
    """A command line with --rounds and --json.

    Args:
        description, epilog: shown by --help as they are.
        rounds: default of --rounds.
    """
    parser = argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help="alternated measurements (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return parser


def write_json(path: Path, result: dict) -> None:
    """Write a benchmark's results, plain values, for ``summary.py`` and other programs."""
    write_bytes_atomically(path, json.dumps(result, indent=2).encode() + b"\n")
