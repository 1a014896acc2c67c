"""What pretraining teaches before any fine-tuning: kNN of the images' categories, by the frozen encoder of every method.

Image-level methods expect images of one object each, as ImageNet's. Here these are the built-in data set's annotated regions, cut out at
their boxes. Every method is pretrained on those of the unlabelled split, which are also the neighbours; those of the validation split are
classified. Only the method "supervised" sees the categories. DetCon's regions are those of FH within such an image.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detcon_d2 import d2
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.engine.setup import load_config
from detcon_d2.evaluation.evaluate import evaluate_encoder
from detcon_d2.evaluation.frozen import FrozenEncoder, random_encoder, trained_encoder
from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.quickstart.commands import lock_folder, run_chains
from detcon_d2.quickstart.results import read_series
from detcon_d2.quickstart.runs import METHODS, REGION_SPLITS, DataSet, Run, Training

RANDOM_SEEDS = range(5)
"""Of the untrained encoders."""


class RegionImages(DataSet):
    """The built-in data set, but pretraining is on its annotated regions as images."""

    def _unlabeled(self, masks: str | None) -> str:
        return f"folder:{self.crops('unlabeled')}"


def run_knn(output: Path, data_set: RegionImages, methods: Sequence[str], trainings: Sequence[Training], jobs: int) -> str:
    """Pretrain what is not finished yet, ``jobs`` runs at the same time; returns the table, which is also written to ``knn.md``.

    Raises ValueError without a method that is trained, if the folder holds other images, and as
    :func:`~detcon_d2.quickstart.commands.run_chains`.
    """
    runs = [(data_set.run(METHODS[name], training.seed), training) for training in trainings for name in methods if name != "random"]
    if not runs:
        raise ValueError(f"--knn found the methods {' '.join(methods)}; expected at least one that is pretrained: random is always there.")
    with lock_folder(output):
        data_set.generate()
        for split in REGION_SPLITS:
            data_set.cut_regions(split)
        if any(run.method.masks == "fh" for run, _ in runs):
            run_chains({"fh": [data_set.masks("fh")]})
        run_chains({run.folder.name: data_set.pretraining(run, training)[:1] for run, training in runs}, jobs)
        config = load_config(str(runs[0][0].pretrain / "config.yaml"), [])
        untrained = [_top1(data_set, _untrained(config, seed), config.DETCON.VIEWS.SIZE) for seed in RANDOM_SEEDS]
        trained = [(run, _top1(data_set, _trained(run), config.DETCON.VIEWS.SIZE)) for run, _ in runs]
        lines = list(table(untrained, trained))
        write_bytes_atomically(output / "knn.md", "\n".join(lines).encode())
    return "\n".join(lines)


def table(untrained: Sequence[float], runs: Sequence[tuple[Run, float]]) -> Iterator[str]:
    """A table in Markdown: top-1 of the untrained encoders, and for each run its own, the gain, the minutes and the last metrics."""
    mean = statistics.mean(untrained)
    yield "| encoder | kNN top-1, % | gain | minutes | metrics at the end |"
    yield "|---|---|---|---|---|"
    yield f"| random, {len(untrained)} seeds | {mean:.1f} ± {statistics.stdev(untrained):.1f} | | | |"
    for run, top1 in runs:
        minutes = json.loads((run.folder / "stages/pretrain.json").read_text(encoding="utf-8"))["seconds"] / 60
        series = {name: points[-1][1] for name, points in read_series(run.pretrain / "metrics.json").items()}
        metrics = [
            f"{name.removeprefix('learning/')} {value:.2f}" for name, value in sorted(series.items()) if name.startswith("learning/")
        ]
        yield f"| {run.method.title} | {top1:.1f} | {top1 - mean:+.1f} | {minutes:.1f} | {', '.join(metrics)} |"


def _untrained(cfg: "d2.CfgNode", seed: int) -> FrozenEncoder:
    cfg = cfg.clone()
    cfg.SEED = seed
    return random_encoder(cfg)


def _trained(run: Run) -> FrozenEncoder:
    return trained_encoder(read_checkpoint(run.pretrain / "model_final.pth", branch="online"))


def _top1(data_set: DataSet, encoder: FrozenEncoder, size: int) -> float:
    """By the nearest 20 neighbours, of regions of ``size`` pixels a side."""
    train, test = (f"folder:{data_set.crops(split)}" for split in REGION_SPLITS)
    found: dict[str, Any] = evaluate_encoder(encoder, train, test, data_set.folder / "features", size=size, protocols=())
    return found["knn"][0]["top1"]
