#!/usr/bin/env python
"""Time and memory of the DetCon loss with its gradients, compared with lightly (if it is installed) and with the bare matrix products.

The products are the logits of both views against both views, and one more product for each side that has a gradient, in float32: two for
DetCon_B, three for DetCon_S. "products" allocates whole matrices with PyTorch's operators; "products, memory given" writes into memory
that is already allocated.
"""

import argparse
import importlib
import importlib.util
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from machine import describe_machine, device_argument, wait_function
from summary import benchmark_page, loss_growth_sections
from timing import OURS, alternate, benchmark_parser, median_ratio, write_json

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.losses.detcon import contrast, detcon_loss
from detcon_d2.losses.tiles import clamped_norm

PEER, PRODUCTS, PRODUCTS_IN_PLACE = "lightly", "products", "products, memory given"
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_CLEAR_REFS = Path("/proc/self/clear_refs")
_EPILOG = """
Memory is what one call adds at its peak to a fresh process that holds the inputs.

examples
  pip install 'detcon_d2[bench]'
  python tools/benchmarks/loss.py --json loss.json
  python tools/benchmarks/loss.py --variants s --images 128 --drawn
  python tools/benchmarks/loss.py --images 1024 --rounds 1 --no-peer
  python tools/benchmarks/loss.py --images 64 --growth growth.html
  python tools/benchmarks/loss.py --device cuda --images 4096 --no-peer --no-products    # the paper's batch
"""


class LossProblem(NamedTuple):
    """What is measured.

    Attributes:
        variant: "b" (gradients to the predictions) or "s" (also to the targets, which are the predictions).
        images: images per process, N.
        regions: regions per view, M.
        dim: embedding dimensions, D.
        processes: number of processes R. One process's share of the loss is measured, against the targets of R * N images, without
            communication. lightly and the products are measured for one process only.
        peer: also measure lightly, if it is installed.
        drawn: sample the ids with replacement among M, as in training: e^-1 = 37 % of the rows have no positive and need no work.
            Otherwise every row has one positive.
        device: "cpu" or "cuda".
        products: also measure the products, which hold a whole matrix of (N * M) x (2 * N * M) logits; our loss never does.
    """

    variant: str
    images: int
    regions: int = 16
    dim: int = 256
    processes: int = 1
    peer: bool = True
    drawn: bool = False
    device: str = "cpu"
    products: bool = True


def functions(problem: LossProblem) -> dict[str, Callable[[], object]]:
    """Functions that compute each loss with its gradients, and the products, by name."""
    inputs = _inputs(problem)
    leaves = [x for x in inputs if x.requires_grad]
    found = {name: lambda loss=loss: torch.autograd.grad(loss(*inputs), leaves) for name, loss in _losses(problem).items()}
    if problem.products and problem.processes == 1:
        found |= _products(problem.variant, inputs)
    return found


def compare_losses(problem: LossProblem, rounds: int, clock: str = "wall", memory: bool = True) -> dict:
    """Median milliseconds ("ms"), medians of the ratios of each round ("ratios") and peak memory in MiB ("peak_mib"), as plain values.

    Args:
        problem: what to measure.
        rounds: measurements of each function, alternated.
        clock: "wall", or "cpu" for the processor time of this process, summed over its threads.
        memory: also measure the memory.
    """
    seconds = alternate(functions(problem), rounds, clock=_CLOCKS[clock], wait=wait_function(problem.device))
    row = problem._asdict() | {"ms": {name: 1000 * statistics.median(values) for name, values in seconds.items()}}
    row["ratios"] = {name: median_ratio(values, seconds[OURS]) for name, values in seconds.items() if name != OURS}
    if memory:
        row["peak_mib"] = {name: peak_memory(problem, name) for name in _losses(problem)}
    return row


def describe_losses(row: dict) -> str:
    """The result of :func:`compare_losses` as text."""
    shape = f"N={row['images']} M={row['regions']} D={row['dim']} R={row['processes']}"
    lines = [f"DetCon_{row['variant'].upper()} {shape}" + (" drawn ids" if row["drawn"] else "")]
    for name, milliseconds in row["ms"].items():
        line = f"  {name:<24}{milliseconds:10.1f} ms"
        if name in row["ratios"]:
            line += f"  {row['ratios'][name]:6.2f} x ours (ours / this: {1 / row['ratios'][name]:.2f})"
        if name in row.get("peak_mib", {}):
            line += f"  +{row['peak_mib'][name]:.0f} MiB"
        lines.append(line)
    return "\n".join(lines)


def measure_growth(base: LossProblem, rounds: int, clock: str = "wall") -> dict[str, list[dict]]:
    """Results by the letter that grows: N and M from a quarter of ``base``'s value to twice it, and K = R * N with R from 1 to 8."""
    problems = {
        "N": [base._replace(images=max(1, int(base.images * factor))) for factor in (0.25, 0.5, 1, 2)],
        "M": [base._replace(regions=max(1, int(base.regions * factor))) for factor in (0.25, 0.5, 1, 2)],
        "K": [base._replace(processes=processes) for processes in (1, 2, 4, 8)],
    }
    return {letter: [compare_losses(problem, rounds, clock) for problem in group] for letter, group in problems.items()}


def peak_memory(problem: LossProblem, name: str) -> float:
    """MiB that one call of the loss ``name`` adds at its peak to a fresh process that holds the inputs and has called it at a small size.

    On CUDA this is the memory of PyTorch's allocator. On Linux it is the high-water mark of the resident memory, reset before the call;
    elsewhere the mark cannot be reset, and the result is by how much the call raises it.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory_here, problem, name, torch.get_num_threads()).result()


def has_peer() -> bool:
    """Whether lightly is installed."""
    return importlib.util.find_spec(PEER) is not None


def _losses(problem: LossProblem) -> dict[str, Callable[..., torch.Tensor]]:
    """Functions of pred1, pred2, target1, target2, ids1, ids2, by name."""
    if problem.processes > 1:
        return {OURS: _share(problem.processes)}
    if not (problem.peer and has_peer()):
        return {OURS: detcon_loss}
    return {OURS: detcon_loss, PEER: importlib.import_module("lightly.loss.detcon_loss").DetConBLoss(gather_distributed=False)}


def _share(processes: int) -> Callable[..., torch.Tensor]:
    """One process's share of the loss; the other processes have the same targets as this one."""

    def share(pred1, pred2, target1, target2, ids1, ids2) -> torch.Tensor:
        target = torch.stack([target1, target2])
        targets = (target / clamped_norm(target)).repeat(1, processes, 1, 1)
        counted = torch.ones(targets.shape[:3], dtype=torch.bool, device=targets.device)
        return contrast((pred1, pred2), torch.stack([ids1, ids2]), targets, counted)

    return share


def _products(variant: str, inputs: list[torch.Tensor]) -> dict[str, Callable[[], None]]:
    """The matrix products that the loss of pred1, pred2, target1, target2, ... needs, by name."""
    query, targets = torch.stack(inputs[:2]).detach().flatten(1, 2), torch.stack(inputs[2:4]).detach().flatten(0, 2)
    logits = query.new_empty(query.shape[1], len(targets))
    gradients = torch.empty_like(query[0]), torch.empty_like(targets)

    def products() -> None:
        for rows in query:
            matrix = rows @ targets.T
            _ = matrix @ targets
            if variant == "s":
                _ = matrix.T @ rows

    def products_in_place() -> None:
        for rows in query:
            torch.mm(rows, targets.T, out=logits)
            torch.mm(logits, targets, out=gradients[0])
            if variant == "s":
                torch.mm(logits.T, rows, out=gradients[1])

    return {PRODUCTS: products, PRODUCTS_IN_PLACE: products_in_place}


def _inputs(problem: LossProblem) -> list[torch.Tensor]:
    """pred1, pred2, target1, target2, ids1, ids2."""
    n, m, d = problem.images, problem.regions, problem.dim
    generator = torch.Generator().manual_seed(0)
    embeddings = [torch.randn(n, m, d, generator=generator).to(problem.device) for _ in range(4)]
    pred = [x.requires_grad_() for x in embeddings[:2]]
    if problem.drawn:
        ids = [torch.randint(m, (n, m), generator=generator) for _ in range(2)]
    else:
        ids = [torch.rand(n, m, generator=generator).argsort(1) for _ in range(2)]
    return [*pred, *(pred if problem.variant == "s" else embeddings[2:]), *(x.to(problem.device) for x in ids)]


def _peak_memory_here(problem: LossProblem, name: str, threads: int) -> float:
    torch.set_num_threads(threads)
    loss, inputs = _losses(problem)[name], _inputs(problem)
    # The first call loads libraries and starts threads.
    small = _inputs(problem._replace(images=2))
    torch.autograd.grad(loss(*small), small[:2])
    if problem.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")
    before = _highest_kib(problem.device)
    gradients = torch.autograd.grad(loss(*inputs), [x for x in inputs if x.requires_grad])
    added = (_highest_kib(problem.device) - before) / 1024
    assert all(gradient.isfinite().all() for gradient in gradients)
    return added


def _highest_kib(device: str) -> float:
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1024
    if not _CLEAR_REFS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__, _EPILOG, rounds=7)
    parser.add_argument("--variants", nargs="+", choices=("b", "s"), default=["b", "s"], help="DetCon_B, DetCon_S (default: both)")
    parser.add_argument("--images", type=int, nargs="+", default=[128, 256], metavar="N", help="batch sizes (default: 128 256)")
    parser.add_argument("--regions", type=int, default=16, metavar="M", help="sampled regions per view (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=256, metavar="D", help="embedding dimensions (default: %(default)s)")
    parser.add_argument(
        "--drawn", action="store_true", help="sample ids as in training (default: each row has a positive, the slowest case)"
    )
    parser.add_argument("--device", type=device_argument, default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: all cores)")
    parser.add_argument("--clock", choices=_CLOCKS, default="wall", help="cpu: processor time, for a busy machine (default: %(default)s)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="do not measure memory")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="do not measure lightly")
    parser.add_argument("--no-products", dest="products", action="store_false", help="do not measure the products (whole matrices)")
    parser.add_argument("--growth", type=Path, metavar="HTML", help="instead, draw charts over N, M and K around the first batch size")
    return parser.parse_args()


def main() -> None:
    """Measure and print; see ``--help``."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peer and not has_peer():
        print("loss.py: lightly is not installed, so it is not measured; to measure it, pip install lightly", file=sys.stderr)
    same = {"drawn": args.drawn, "peer": args.peer, "device": args.device, "products": args.products}
    problems = [LossProblem(variant, images, args.regions, args.dim, **same) for variant in args.variants for images in args.images]
    result = {"machine": describe_machine(), "clock": args.clock, "rounds": args.rounds}
    if args.growth:
        bases = [problem for problem in problems if problem.images == args.images[0]]
        result["growth"] = {problem.variant: measure_growth(problem, args.rounds, args.clock) for problem in bases}
        sections = loss_growth_sections(result["growth"])
        write_bytes_atomically(args.growth, benchmark_page("DetCon loss: time and memory", result["machine"], sections).encode())
        print(f"{args.growth}: open it in a browser")
    else:
        result["rows"] = []
        for problem in problems:
            result["rows"].append(compare_losses(problem, args.rounds, args.clock, args.memory))
            print(describe_losses(result["rows"][-1]), flush=True)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
