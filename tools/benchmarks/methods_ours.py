"""The methods of this package at the sizes that ``methods.py`` measures: loader, step, and the trainer's whole run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from detcon_d2 import d2
from detcon_d2.data import build_pretraining_loader
from detcon_d2.engine.main import argument_parser
from detcon_d2.engine.setup import setup_pretraining
from detcon_d2.engine.trainer import DetConTrainer

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
HIDDEN, OUT, PROTOTYPES, QUEUE, DINO_OUT, GRID = 512, 128, 512, 4096, 2048, 2
"""Hidden and output sizes of the heads, SwAV's prototypes, MoCo's keys, DINO's outputs, and DetCon's regions per side."""


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


@contextmanager
def our_parts(problem: MethodProblem, folder: Path) -> Iterator[dict[str, Callable[[], object]]]:
    """A function for each of :data:`PARTS` that does it for one batch. The whole run is the trainer's: with its hooks, EMA and checks."""
    opts = _options(problem, folder)
    args = argument_parser().parse_args(["--config-file", str(_CONFIGS / CONFIGS[problem.method]), *map(str, opts)])
    cfg, records = setup_pretraining(args)
    trainer = DetConTrainer(cfg, records)
    trainer.iter = 0
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

    with d2.EventStorage(0) as trainer.storage:
        trainer.before_train()
        yield dict(zip(PARTS, (lambda: next(loader), step, whole)))
        trainer.after_train()


def _options(problem: MethodProblem, folder: Path) -> list:
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
        "SOLVER.BASE_LR_END": 0.0,
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
