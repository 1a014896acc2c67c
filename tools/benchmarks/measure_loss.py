"""Time and memory of the DetCon loss with its gradients, beside lightly's and beside the matrix products that it cannot do without.

Letters: N images of this process, K images of all, M regions a view, D embedding dimensions.
"""

import importlib
import importlib.util
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from timing import alternate, median_ratio, synchronized

from detcon_d2.losses.detcon import contrast, detcon_loss
from detcon_d2.losses.tiles import clamped_norm

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
VARIANTS = ("b", "s")
OURS, PEER, PRODUCTS, PRODUCTS_IN_PLACE = "ours", "lightly", "products", "products, memory given"
_CLEAR_REFS = Path("/proc/self/clear_refs")


class Problem(NamedTuple):
    """What is measured.

    Attributes:
        variant: "b" (gradients to the predictions) or "s" (to the targets, too: they are the predictions).
        images: N.
        regions: M.
        dim: D.
        processes: K = processes * N: what each of so many does, communication aside. lightly and the products are for one.
        peer: lightly, too, where it is installed.
        drawn: ids drawn with replacement among M, as in training: without a positive are e^-1 = 37 % of the rows, and these need no
            work. Otherwise every row has one positive.
        device: "cpu" or "cuda".
        products: the bare products, too; they hold a whole matrix of (N * M) x (2 * N * M) logits, ours never does.
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


def functions(problem: Problem) -> dict[str, Callable[[], object]]:
    """What computes the loss and its gradients, by name, and the products: logits, and a gradient's for each side that has one.

    ``products`` are whole matrices with PyTorch's operators, ``products, memory given`` the same into memory that is already there.
    """
    inputs = _inputs(problem)
    leaves = [x for x in inputs if x.requires_grad]
    found = {name: lambda loss=loss: torch.autograd.grad(loss(*inputs), leaves) for name, loss in _losses(problem).items()}
    if problem.products and problem.processes == 1:
        found |= _products(problem.variant, inputs)
    return {name: synchronized(function, problem.device) for name, function in found.items()}


def compare(problem: Problem, rounds: int, clock: str = "wall", memory: bool = True) -> dict:
    """One row of the table, plain values: medians in milliseconds, ratios taken round by round, peak memory in MiB.

    Args:
        problem: what to measure.
        rounds: measurements of each function, in turns.
        clock: "wall", or "cpu" for the time that this process got, summed over its threads.
        memory: measure that, too.
    """
    seconds = alternate(functions(problem), rounds, clock=CLOCKS[clock])
    row = problem._asdict() | {"ms": {name: 1000 * statistics.median(values) for name, values in seconds.items()}}
    row["ratios"] = {name: median_ratio(values, seconds[OURS]) for name, values in seconds.items() if name != OURS}
    if memory:
        row["peak_mib"] = {name: peak_memory(problem, name) for name in _losses(problem)}
    return row


def describe(row: dict) -> str:
    """A row as text."""
    shape = " ".join(f"{letter}={row[name]}" for letter, name in (("N", "images"), ("M", "regions"), ("D", "dim"), ("R", "processes")))
    lines = [f"DetCon_{row['variant'].upper()} {shape}" + (" drawn ids" if row["drawn"] else "")]
    for name, milliseconds in row["ms"].items():
        line = f"  {name:<24}{milliseconds:10.1f} ms"
        if name in row["ratios"]:
            line += f"  {row['ratios'][name]:6.2f} x ours (ours / this: {1 / row['ratios'][name]:.2f})"
        if name in row.get("peak_mib", {}):
            line += f"  +{row['peak_mib'][name]:.0f} MiB"
        lines.append(line)
    return "\n".join(lines)


def peak_memory(problem: Problem, name: str) -> float:
    """MiB that one call of a function adds at its peak to a fresh process that holds the inputs and has called it at a small size.

    CUDA: what the allocator gave out. Linux: resident memory's high-water mark, reset before the call; elsewhere what the call adds to the
    process's highest so far.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory, problem, name, torch.get_num_threads()).result()


def has_peer() -> bool:
    """Whether lightly is installed."""
    return importlib.util.find_spec(PEER) is not None


def _losses(problem: Problem) -> dict[str, Callable[..., torch.Tensor]]:
    """Functions of pred1, pred2, target1, target2, ids1, ids2, by name."""
    if problem.processes > 1:
        return {OURS: _share(problem)}
    if not (problem.peer and has_peer()):
        return {OURS: detcon_loss}
    return {OURS: detcon_loss, PEER: importlib.import_module("lightly.loss.detcon_loss").DetConBLoss(gather_distributed=False)}


def _products(variant: str, inputs: list[torch.Tensor]) -> dict[str, Callable[[], None]]:
    """The products of pred1, pred2, target1, target2, ..., by name."""
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


def _share(problem: Problem) -> Callable[..., torch.Tensor]:
    """One process's share of the loss; the targets of the others are the same as its own."""

    def share(pred1, pred2, target1, target2, ids1, ids2) -> torch.Tensor:
        target = torch.stack([target1, target2])
        targets = (target / clamped_norm(target)).repeat(1, problem.processes, 1, 1)
        counted = torch.ones(targets.shape[:3], dtype=torch.bool, device=targets.device)
        return contrast((pred1, pred2), torch.stack([ids1, ids2]), targets, counted)

    return share


def _inputs(problem: Problem) -> list[torch.Tensor]:
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


def _peak_memory(problem: Problem, name: str, threads: int) -> float:
    torch.set_num_threads(threads)
    inputs = _inputs(problem)
    leaves = [x for x in inputs if x.requires_grad]
    loss = _losses(problem)[name]
    # Libraries are loaded and threads started.
    small = _inputs(problem._replace(images=2))
    torch.autograd.grad(loss(*small), small[:2])
    highest = _highest_kib if problem.device == "cpu" else _highest_kib_of_gpu
    if problem.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")
    before = highest()
    gradients = torch.autograd.grad(loss(*inputs), leaves)
    added = (highest() - before) / 1024
    assert all(gradient.isfinite().all() for gradient in gradients)
    return added


def _highest_kib() -> int:
    if not _CLEAR_REFS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def _highest_kib_of_gpu() -> float:
    return torch.cuda.max_memory_allocated() / 1024
