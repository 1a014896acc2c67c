#!/usr/bin/env python
"""Images/s of each method here and by lightly's parts: the loader, the step, and the whole run (both on the same cores).

Both sides read the same JPEGs, make views of the same sizes and compute the same networks; steps alternate within one run.
"""

import argparse
import logging
import tempfile
from collections import deque
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import cv2
import torch
from machine import describe_machine
from methods_ours import CONFIGS, PARTS, MethodProblem, our_parts
from pipeline import write_images
from timing import OURS, alternate, benchmark_parser, median_ratio, write_json

from detcon_d2.engine.allocator import keep_freed_memory

PEER = "lightly"
_EPILOG = """
examples
  python tools/benchmarks/methods.py                                             # ResNet-18, 65 px, batch 64, one core
  python tools/benchmarks/methods.py --depth 50 --size 224 --local 6 96 --images 8 --methods SimCLR SwAV
  python tools/benchmarks/methods.py --threads 2 --workers 1
"""


def measure_method(problem: MethodProblem, folder: Path, rounds: int, batches: int) -> dict[str, dict[str, list[float]]]:
    """Images/s, by part of :data:`PARTS`, then by :data:`OURS` and, where it is installed, :data:`PEER`, a value each round.

    Args:
        problem: what to measure.
        folder: holds ``images``, a folder of class folders, and takes our output.
        rounds: alternated measurements of each part.
        batches: batches of a measurement.
    """
    result = {}
    with our_parts(problem, folder) as ours:
        sides = {OURS: ours} | ({PEER: peer_parts(problem, folder)} if find_spec("lightly") is not None else {})
        for part in PARTS:
            seconds = alternate({name: lambda call=parts[part]: _repeat(call, batches) for name, parts in sides.items()}, rounds)
            result[part] = {name: [batches * problem.images / value for value in values] for name, values in seconds.items()}
    return result


def peer_parts(problem: MethodProblem, folder: Path) -> dict[str, Callable[[], object]]:
    """As :func:`our_parts`."""
    from methods_peers import build_peer, peer_batches

    torch.manual_seed(0)
    _, step = build_peer(problem.method, problem.depth)
    arguments = problem.method, folder / "images", problem.images, problem.size, problem.local, problem.workers
    loader, batches = peer_batches(*arguments), peer_batches(*arguments)
    fixed = next(loader)
    return dict(zip(PARTS, (lambda: next(loader), lambda: step(fixed), lambda: step(next(batches)))))


def describe_method(problem: MethodProblem, speeds: dict[str, dict[str, list[float]]]) -> list[str]:
    """The result of :func:`measure_method` as text."""
    lines = []
    for part, found in speeds.items():
        text = "  ".join(f"{name} {sorted(values)[len(values) // 2]:8.1f} images/s" for name, values in found.items())
        ratio = f"  {median_ratio(found[OURS], found[PEER]):6.2f}x" if PEER in found else ""
        lines.append(f"{problem.method:<9}{part:<11}{text}{ratio}")
    return lines


def _repeat(call: Callable[[], object], times: int) -> None:
    deque((call() for _ in range(times)), maxlen=0)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__, _EPILOG, rounds=3)
    default = MethodProblem("")
    parser.add_argument("--methods", nargs="+", choices=CONFIGS, default=list(CONFIGS), help="default: all")
    parser.add_argument("--depth", type=int, default=default.depth, help="depth of the ResNet (default: %(default)s)")
    parser.add_argument("--images", type=int, default=default.images, help="images of a batch (default: %(default)s)")
    parser.add_argument("--size", type=int, default=default.size, help="side of the large views in pixels (default: %(default)s)")
    parser.add_argument(
        "--local", type=int, nargs=2, default=default.local, metavar=("N", "SIDE"), help="small views of SwAV and DINO (default: 4 33)"
    )
    parser.add_argument("--workers", type=int, default=default.workers, help="processes that load (default: 0, the one that trains)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=2, help="batches of a measurement (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure and print; see ``--help``."""
    args = parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    result = {"machine": describe_machine(), "problem": {key: value for key, value in vars(args).items() if key != "json"}, "speeds": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images" / "all", (500, 375), copies=max(1, args.images // 4))
        for method in args.methods:
            problem = MethodProblem(method, args.depth, args.images, args.size, tuple(args.local), args.workers)
            logging.disable(logging.WARNING)  # the log of each run, whose few images its checks of the config warn about
            try:
                speeds = result["speeds"][method] = measure_method(problem, folder, args.rounds, args.batches)
            finally:
                logging.disable(logging.NOTSET)
            print(*describe_method(problem, speeds), sep="\n", flush=True)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
