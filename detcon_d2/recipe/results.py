"""What a chain gained: AP from random and from pretrained weights, by seed."""

import statistics
from pathlib import Path

from tabulate import tabulate

from detcon_d2.quickstart.results import read_evaluation

_TASKS = {"bbox": "box", "segm": "mask"}


def gains_table(folder: Path) -> str:
    """A row for each seed whose two detectors are trained. Raises ValueError if there is none."""
    rows = {}
    for seed in sorted(folder.glob("seed_*"), key=lambda path: (len(path.name), path.name)):
        if all((seed / name / "results.json").is_file() for name in ("random", "pretrained")):
            both = [read_evaluation(seed / name) for name in ("random", "pretrained")]
            rows[seed.name] = {task: [one.ap(task) for one in both] for task in _TASKS if task in both[0].metrics}
    if not rows:
        raise ValueError(
            f"{folder}: found no seed_*/random/results.json and seed_*/pretrained/results.json; expected the output of run.sh."
        )
    tasks = list(next(iter(rows.values())))
    head = ["", *(f"{_TASKS[task]} AP, {name}" for task in tasks for name in ("random", "pretrained", "gain"))]
    lines = [[seed, *(cell for task in tasks for cell in _cells(*rows[seed][task]))] for seed in rows]
    if len(rows) > 1:
        means = {task: [statistics.fmean(row[task][index] for row in rows.values()) for index in (0, 1)] for task in tasks}
        lines.append(["mean", *(cell for task in tasks for cell in _cells(*means[task]))])
    return tabulate(lines, head, disable_numparse=True)


def _cells(before: float, after: float) -> tuple[str, str, str]:
    return f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"
