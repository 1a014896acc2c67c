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
from typing import NamedTuple

import cv2
import torch
from machine import describe_machine
from pipeline import write_images
from timing import OURS, alternate, benchmark_parser, median_ratio, write_json

from detcon_d2 import d2
from detcon_d2.data import build_pretraining_loader
from detcon_d2.engine.allocator import keep_freed_memory
from detcon_d2.engine.main import argument_parser
from detcon_d2.engine.setup import setup_pretraining
from detcon_d2.engine.trainer import DetConTrainer

PEER = "lightly"
PARTS = ("loader", "step", "whole run")
CONFIGS = {
    "SimCLR": "SimCLR/simclr_R_50_in1k_1000ep.yaml",
    "BYOL": "BYOL/byol_R_50_in1k_300ep.yaml",
    "MoCo": "MoCo/moco_v2_R_50_in1k_200ep.yaml",
    "SwAV": "SwAV/swav_R_50_in1k_800ep.yaml",
    "DINO": "DINO/dino_R_50_in1k_100ep.yaml",
    "DetConS": "DetCon/detcon_s_R_50_in1k_300ep.yaml",
}
"""Method -> the published config whose augmentation and form of heads is measured."""
_CONFIGS = Path(__file__).parents[2] / "configs"
_LAST = 1_000_000
_EPILOG = """
examples
  python tools/benchmarks/methods.py                                             # ResNet-18, 65 px, batch 64, one core
  python tools/benchmarks/methods.py --depth 50 --size 224 --local 6 96 --images 8 --methods SimCLR SwAV
  python tools/benchmarks/methods.py --threads 2 --workers 1
"""


class MethodProblem(NamedTuple):
    """What is measured.

    Attributes:
        method: a key of :data:`CONFIGS`.
        depth: depth of the ResNet.
        images: images of a batch.
        size: side of the large views in pixels.
        local: number and side of the small views, where the method has some.
        workers: processes that load; 0: the one that trains.
    """

    method: str
    depth: int = 18
    images: int = 64
    size: int = 65
    local: tuple[int, int] = (4, 33)
    workers: int = 0


def measure_method(problem: MethodProblem, folder: Path, rounds: int, batches: int) -> dict[str, dict[str, list[float]]]:
    """Images/s, by part of :data:`PARTS`, then by :data:`OURS` and, where it is installed, :data:`PEER`, a value each round.

    Args:
        problem: what to measure.
        folder: holds ``images``, a folder of class folders, and takes our output.
        rounds: alternated measurements of each part.
        batches: batches of a measurement.
    """
    sides = {OURS: our_parts(problem, folder)}
    if find_spec("lightly") is not None:
        sides[PEER] = peer_parts(problem, folder)
    result = {}
    for part in PARTS:
        seconds = alternate({name: lambda call=parts[part]: _repeat(call, batches) for name, parts in sides.items()}, rounds)
        result[part] = {name: [batches * problem.images / value for value in values] for name, values in seconds.items()}
    return result


def our_parts(problem: MethodProblem, folder: Path) -> dict[str, Callable[[], object]]:
    """A function for each of :data:`PARTS` that does it for one batch. The whole run is the trainer's: with its hooks, EMA and checks."""
    opts = _options(problem, folder)
    args = argument_parser().parse_args(["--config-file", str(_CONFIGS / CONFIGS[problem.method]), *map(str, opts)])
    cfg, records = setup_pretraining(args)
    trainer = DetConTrainer(cfg, records)
    trainer.storage = d2.EventStorage(0).__enter__()
    trainer.iter = 0
    trainer.before_train()
    loader, trainer.batches = (iter(build_pretraining_loader(cfg, records, trainer.network.sample_maker(cfg))) for _ in range(2))
    fixed = next(loader)

    def whole() -> None:
        trainer.before_step()
        trainer.run_step()
        trainer.after_step()
        trainer.iter += 1

    def step() -> None:
        running, trainer.batches = trainer.batches, iter([fixed])
        whole()
        trainer.batches = running

    return dict(zip(PARTS, (lambda: next(loader), step, whole)))


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


def _options(problem: MethodProblem, folder: Path) -> list:
    from methods_peers import DINO_OUT, GRID, HIDDEN, OUT, PROTOTYPES, QUEUE

    count, side = problem.local
    small = problem.method in ("SwAV", "DINO")
    values = {
        "DATASETS.TRAIN": f'("folder:{folder / "images"}",)',
        "OUTPUT_DIR": folder / "output" / problem.method,
        "MODEL.DEVICE": "cpu",
        "MODEL.RESNETS.DEPTH": problem.depth,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if problem.depth < 50 else 256,
        "SOLVER.IMS_PER_BATCH": problem.images,
        "SOLVER.MAX_ITER": _LAST,
        "SOLVER.CHECKPOINT_PERIOD": _LAST,
        "SOLVER.AMP.ENABLED": False,
        "DATALOADER.NUM_WORKERS": problem.workers,
        "DETCON.SOLVER.EPOCHS": 0.0,
        "DETCON.SOLVER.WARMUP_EPOCHS": 0.0,
        "DETCON.SOLVER.OPTIMIZER": "SGD",
        "DETCON.PROBE.ENABLED": False,
        "DETCON.VIEWS.SIZE": problem.size,
        "DETCON.VIEWS.LOCAL.COUNT": count if small else 0,
        "DETCON.VIEWS.LOCAL.SIZE": side,
        "DETCON.AUG.MODE": "fast",
        "DETCON.MASKS.SOURCE": "grid",
        "DETCON.MASKS.GRID": GRID,
        "DETCON.NUM_SAMPLES": GRID * GRID,
        "DETCON.PROJECTOR.HIDDEN_DIM": HIDDEN,
        "DETCON.PROJECTOR.OUT_DIM": OUT,
        "DETCON.PREDICTOR.HIDDEN_DIM": HIDDEN,
        "DETCON.SIMCLR.PROJECTOR_LAYERS": 2,
        "DETCON.MOCO.QUEUE": QUEUE,
        "DETCON.SWAV.PROTOTYPES": PROTOTYPES,
        "DETCON.DINO.OUT_DIM": DINO_OUT,
        "DETCON.DINO.HIDDEN_DIM": HIDDEN,
        "DETCON.DINO.BOTTLENECK_DIM": OUT,
    }
    return [item for pair in values.items() for item in pair]


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
            speeds = result["speeds"][method] = measure_method(problem, folder, args.rounds, args.batches)
            print(*describe_method(problem, speeds), sep="\n", flush=True)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main()
