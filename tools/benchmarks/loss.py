#!/usr/bin/env python
"""Time and memory of the DetCon loss with its gradients, beside lightly's (where it is installed) and beside the bare matrix products.

The products are the logits of both views against both views, and one more for each side that has a gradient, in float32: for DetCon_B two,
for DetCon_S three. "products" makes whole matrices with PyTorch's operators; "memory given" writes into memory that is already there.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from detcon_d2.benchmark.loss import CLOCKS, VARIANTS, Problem, compare, describe, has_peer
from detcon_d2.benchmark.loss_growth import growth, growth_page
from detcon_d2.benchmark.timing import device_argument, machine
from detcon_d2.io.atomic import write_atomically

_EPILOG = """
memory is what one call adds at its peak to a fresh process that holds the inputs.

examples
  pip install 'detcon_d2[bench]'
  python tools/benchmarks/loss.py --json loss.json
  python tools/benchmarks/loss.py --variants s --images 128 --drawn
  python tools/benchmarks/loss.py --images 1024 --rounds 1 --no-peer
  python tools/benchmarks/loss.py --images 64 --growth growth.html
  python tools/benchmarks/loss.py --device cuda --images 4096 --no-peer --no-products    # the paper's batch
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="DetCon_B, DetCon_S (default: both)")
    parser.add_argument("--images", type=int, nargs="+", default=[128, 256], metavar="N", help="batch sizes (default: 128 256)")
    parser.add_argument("--regions", type=int, default=16, metavar="M", help="drawn regions a view (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=256, metavar="D", help="of the embeddings (default: %(default)s)")
    parser.add_argument("--drawn", action="store_true", help="ids as in training; by default every row has a positive, the dearest case")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each, in turns (default: %(default)s)")
    parser.add_argument("--device", type=device_argument, default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of torch (default: all cores)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: this process's own time, on a busy machine (default: wall)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="do not measure memory")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave lightly out")
    parser.add_argument("--no-products", dest="products", action="store_false", help="leave the products out: they hold whole matrices")
    parser.add_argument("--growth", type=Path, metavar="HTML", help="instead: charts over N, M and K, around the first batch size")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    return parser.parse_args()


def main() -> None:
    """Measure and print; see ``--help``."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peer and not has_peer():
        print("loss.py: lightly is not installed, so it is left out; pip install lightly", file=sys.stderr)
    same = {"drawn": args.drawn, "peer": args.peer, "device": args.device, "products": args.products}
    problems = {variant: [Problem(variant, images, args.regions, args.dim, **same) for images in args.images] for variant in args.variants}
    result = {"machine": machine(), "clock": args.clock, "rounds": args.rounds}
    if args.growth:
        result["growth"] = {variant: growth(group[0], args.rounds, args.clock) for variant, group in problems.items()}
        html = growth_page(result["growth"], result["machine"])
        write_atomically(args.growth, lambda file: file.write(html.encode()))
        print(f"{args.growth}: open it in a browser")
    else:
        result["rows"] = []
        for problem in (problem for group in problems.values() for problem in group):
            result["rows"].append(compare(problem, args.rounds, args.clock, args.memory))
            print(describe(result["rows"][-1]), flush=True)
    if args.json:
        write_atomically(args.json, lambda file: file.write(json.dumps(result, indent=2).encode() + b"\n"))


if __name__ == "__main__":
    main()
