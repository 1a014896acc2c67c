#!/usr/bin/env python
"""Speed of a whole pretraining step beside plain float32 and beside what the fastest product and the memory allow, in turns, in one run."""

import argparse
import json
from pathlib import Path

import torch
from measure_step import Problem, largest_batch, measure_step, profile_step, usual_amp
from timing import device_argument, machine

_EPILOG = """
examples
  python tools/benchmarks/step.py                                             # DetCon_B, ResNet-50, 224 px, batch 16, all cores
  python tools/benchmarks/step.py --depth 18 --size 97 --images 64 --threads 1   # the quickstart's
  python tools/benchmarks/step.py --device cuda --images 256 --no-plain --rounds 20
  python tools/benchmarks/step.py --device cuda --images 64 --largest
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    default = Problem()
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("DetConB", "DetConS"), default=default.method, help="default: %(default)s")
    parser.add_argument("--depth", type=int, default=default.depth, help="of the ResNet (default: %(default)s)")
    parser.add_argument("--images", type=int, default=default.images, help="of a batch (default: %(default)s)")
    parser.add_argument("--size", type=int, default=default.size, help="side of a view, pixels (default: %(default)s)")
    parser.add_argument("--device", type=device_argument, default=default.device, help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--amp", choices=("bf16", "fp16", "off"), help="of autocast (default: bf16; off on a CPU without it)")
    parser.add_argument("--no-plain", action="store_true", help="leave plain float32 out")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile (DETCON.COMPILE inductor)")
    parser.add_argument("--profile", type=int, metavar="N", help="also the N operators that take most of the step")
    parser.add_argument("--largest", action="store_true", help="instead: double the batch while it fits the GPU's memory")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each that are measured, in turns (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of PyTorch (default: one a core)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    if args.largest and args.device == "cpu":
        parser.error("--largest needs --device cuda: a CPU's memory has no such limit")
    return args


def main() -> None:
    """Measure and print; see ``--help``."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    amp = usual_amp(args.device) if args.amp is None else args.amp.replace("off", "")
    problem = Problem(args.method, args.depth, args.images, args.size, args.device, amp)
    if args.largest:
        print(f"largest batch that fits: {largest_batch(problem)} (twice as large a one does not)")
        return
    speed = measure_step(problem, args.rounds, plain=not args.no_plain, compiled=args.compile)
    print(*speed.lines(problem.images), sep="\n")
    operators = profile_step(problem) if args.profile else {}
    for name, share in list(operators.items())[: args.profile]:
        print(f"{100 * share:6.1f} %  {name}")
    if args.json:
        result = {
            "machine": machine(),
            "problem": problem._asdict(),
            "share_of_peak": speed.share_of_peak,
            "share_of_roofline": speed.share_of_roofline,
            "operators": operators,
        } | speed._asdict()
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
