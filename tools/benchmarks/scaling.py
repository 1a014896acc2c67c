#!/usr/bin/env python
"""How the pretraining step scales over processes of this machine: gloo on CPUs, NCCL on GPUs, the same images a process."""

import argparse
import json
from pathlib import Path

from measure_scaling import lines, measure_processes
from measure_step import Problem, usual_amp
from timing import machine

_EPILOG = """
examples
  python tools/benchmarks/scaling.py                              # 1 and 2 processes with one thread each, ResNet-18, 97 px, 32 images each
  python tools/benchmarks/scaling.py --device cuda --processes 1 2 4 8 --depth 50 --size 224 --images 256
How the loss grows with N, K and M: tools/benchmarks/loss.py --growth; the loader over workers: tools/benchmarks/pipeline.py --workers 0 1 2
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--method", choices=("DetConB", "DetConS"), default="DetConB", help="default: %(default)s")
    parser.add_argument("--depth", type=int, default=18, help="of the ResNet (default: %(default)s)")
    parser.add_argument("--images", type=int, default=32, help="of a process (default: %(default)s)")
    parser.add_argument("--size", type=int, default=97, help="side of a view, pixels (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="steps that are measured (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch in each process (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    return parser.parse_args()


def main() -> None:
    """Measure and print; see ``--help``."""
    args = parse_args()
    problem = Problem(args.method, args.depth, args.images, args.size, args.device, usual_amp(args.device))
    medians = measure_processes(problem, args.processes, args.rounds, args.threads)
    print(*lines(medians, args.images), sep="\n")
    if args.json:
        result = {"machine": machine(), "problem": problem._asdict(), "threads": args.threads, "seconds": medians}
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
