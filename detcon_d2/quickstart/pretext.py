"""Does a pretext task learn something that holds for other images? Its accuracy on held-out photographs or clips, next to chance.

The images are those of :mod:`detcon_d2.quickstart.photos`; those of training and the held-out ones are different halves of the photographs.
Methods on clips have those of :mod:`detcon_d2.quickstart.clips`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.quickstart.clips import generate_clips
from detcon_d2.quickstart.commands import Command, lock_folder, run_chains
from detcon_d2.quickstart.photos import generate_photos
from detcon_d2.quickstart.results import read_series
from detcon_d2.quickstart.runs import METHODS, VIDEO

ITERATIONS, BATCH = 300, 32
"""Of a run: minutes on one core."""
_TASKS = METHODS | VIDEO


class Threshold(NamedTuple):
    """The metric that shows whether a task was learned, and the value that it must reach: at least that, or at most where less is better.

    ``chance`` is the metric of a guess; ``times_chance``: the value is in parts of it.
    """

    metric: str
    value: float
    more: bool = True
    times_chance: bool = False
    chance: str = "chance"

    def bound(self, chance: float | None) -> float:
        """The value that has to be reached."""
        return self.value * (chance or 0.0) if self.times_chance else self.value


THRESHOLDS = {
    "rotation": Threshold("accuracy", 0.35),
    "relative_position": Threshold("accuracy", 0.20),
    "jigsaw": Threshold("accuracy", 0.04),
    "damaged_jigsaw": Threshold("accuracy", 0.04),
    "colorization": Threshold("gain", 0.0),
    "context_encoder": Threshold("error_ratio", 0.9, more=False),
    "counting": Threshold("error_ratio", 0.2, more=False),
    "egomotion": Threshold("accuracy", 0.25),
    "exemplar": Threshold("accuracy", 10, times_chance=True),
    "iic": Threshold("information", 0.3),
    "dim": Threshold("accuracy", 5, times_chance=True),
    "cpc": Threshold("accuracy", 5, times_chance=True),
    "amdim": Threshold("accuracy", 5, times_chance=True),
    "multi_task": Threshold("RelativePosition_accuracy", 0.20, chance="RelativePosition_chance"),
    "vince": Threshold("accuracy", 10, times_chance=True),
    "shuffle_and_learn": Threshold("accuracy", 1.22, times_chance=True),
    "tracking_by_color": Threshold("accuracy", 1.02, times_chance=True),
    "mask_prediction_clips": Threshold("iou", 1.0, times_chance=True, chance="iou_center"),
}
"""For 1,000 held-out images at least seven standard deviations above chance; of the others what a solution has to reach."""


def run_pretext(output: Path, methods: Sequence[str], seeds: Sequence[int], jobs: int) -> str:
    """Train what is not finished yet, ``jobs`` runs at the same time; returns the table, which is also written to ``pretext.md``.

    Raises ValueError for a method that is no pretext task, and as :func:`~detcon_d2.quickstart.commands.run_chains`.
    """
    if unknown := [name for name in methods if name not in THRESHOLDS]:
        raise ValueError(f"--pretext found the methods {' '.join(unknown)}; expected some of {' '.join(THRESHOLDS)}")
    with lock_folder(output):
        data = {name: data_of(output, name) for name in methods}
        regions = {one.title: [one] for name in methods for one in label_maps(output, name, data[name])}
        run_chains(regions, jobs)
        runs = {f"{name}-{seed}": command(output / f"{name}-{seed}", name, seed, data[name]) for seed in seeds for name in methods}
        run_chains({name: [one] for name, one in runs.items()}, jobs)
        text = "\n".join(table([(name, seed, output / f"{name}-{seed}") for seed in seeds for name in methods]))
        write_bytes_atomically(output / "pretext.md", text.encode())
    return text


def data_of(output: Path, name: str) -> dict[str, str]:
    """Specs of the images of a task, ``train`` and the held-out ``val``; they are drawn where they are missing."""
    kind, folders = ("video", generate_clips(output / "clips")) if name in VIDEO else ("folder", generate_photos(output / "photos"))
    return {split: f"{kind}:{folder}" for split, folder in folders.items()}


def label_maps(output: Path, name: str, data: dict[str, str]) -> Iterator[Command]:
    """The commands that import the masks of a task's ``data``; none for a task without regions."""
    for split, spec in data.items() if _TASKS[name].masks else ():
        folder = output / f"clips-regions/{split}"
        words = ("tools/generate_masks.py", spec, str(folder), "--generator", "imported", "--masks", str(output / f"clips/{split}-masks"))
        yield Command(f"masks of the clips: {split}", words, output / f"stages/regions-{split}.json", folder)


def command(folder: Path, name: str, seed: int, data: dict[str, str]) -> Command:
    """The run of a task with a seed on the ``data`` of :func:`data_of`."""
    roots = [repr((str(one.product),)) for one in label_maps(folder.parent, name, data)]
    regions = ("DETCON.MASKS.ROOTS", roots[0], "DETCON.HELD_OUT.ROOTS", roots[1]) if roots else ()
    words = (
        *("tools/train_net.py", "--config-file", f"configs/quickstart/{_TASKS[name].config}", "--resume"),
        *("DATASETS.TRAIN", repr((data["train"],)), "DETCON.HELD_OUT.DATASETS", repr((data["val"],))),
        *("SOLVER.IMS_PER_BATCH", str(BATCH), "DETCON.SOLVER.EPOCHS", "0.0", "SOLVER.MAX_ITER", str(ITERATIONS)),
        *("DETCON.SOLVER.WARMUP_EPOCHS", "0.0", "SOLVER.WARMUP_ITERS", "40", "SEED", str(seed), "OUTPUT_DIR", str(folder)),
        *(*_TASKS[name].options, *regions),
    )
    return Command(f"{_TASKS[name].title}, seed {seed}", words, folder / "stages/pretrain.json", folder / "model_final.pth")


def table(runs: Sequence[tuple[str, int, Path]]) -> Iterator[str]:
    """A table in Markdown: metric, chance, threshold and whether it is reached, on held-out images."""
    yield "| task | seed | metric | held out | in training | chance | threshold | reached | minutes |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, seed, folder in runs:
        series = {key: points[-1][1] for key, points in read_series(folder / "metrics.json").items()}
        threshold, minutes = THRESHOLDS[name], json.loads((folder / "stages/pretrain.json").read_text("utf-8"))["seconds"] / 60
        found, trained = (series[f"{split}/{threshold.metric}"] for split in ("held_out", "learning"))
        chance = series.get(f"held_out/{threshold.chance}")
        bound = threshold.bound(chance)
        reached = found >= bound if threshold.more else found <= bound
        cells = [_TASKS[name].title, seed, threshold.metric, f"{found:.3f}", f"{trained:.3f}", "" if chance is None else f"{chance:.3f}"]
        cells += [f"{'≥' if threshold.more else '≤'} {bound:.3g}", "yes" if reached else "no", f"{minutes:.1f}"]
        yield f"| {' | '.join(map(str, cells))} |"
