"""``make evidence``: does pretraining raise AP? Arms of equal budget over several seeds, in two worlds, resumable arm by arm.

In the first world an object's material agrees with its category with probability 0.8, as in nature; in the hard one it says nothing.
"""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detcon_d2.io.atomic import write_bytes_atomically as write_atomically
from detcon_d2.quickstart.experiment import ROWS, Row, Training, World
from detcon_d2.quickstart.quickstart import read_ap
from detcon_d2.quickstart.shapes import ShapesConfig
from detcon_d2.quickstart.stages import Chain, lock_folder, run_chains

TRAINING = Training(pretrain_epochs=40.0, finetune_iterations=300)
"""1875 steps of batch 64, and 300 of batch 8."""

WORLDS: dict[str, tuple[ShapesConfig, tuple[str, ...]]] = {
    "easy": (
        ShapesConfig(seed=0, agreement=0.8),
        ("random", "detcon_b", "detcon_s", "detcon_b_kmeans", "detcon_b_grid5", "grid", "annotations"),
    ),
    "hard": (ShapesConfig(seed=0, agreement=0.0), ("random", "detcon_b", "detcon_s")),
}
"""The images of each world, and its rows; optional ones are in the table once one of their arms has finished."""


@dataclass(frozen=True)
class Score:
    """What one row reached.

    Attributes:
        box, mask: AP, 0..100, by seed; seeds that have not finished are absent.
    """

    box: dict[int, float]
    mask: dict[int, float]


def run_evidence(
    checkout: Path, output: Path, worlds: Sequence[str], rows: Sequence[str], seeds: Sequence[int], jobs: int, training: Training = TRAINING
) -> str:
    """Run what is not finished yet; the table is written anew after each arm.

    Args:
        checkout: folder that holds ``tools`` and ``configs``.
        output: where everything is written: a folder a world, ``evidence.md`` and ``evidence.json``.
        worlds, rows: names in ``WORLDS`` and ``ROWS``; a world leaves out rows that it does not have.
        seeds: of pretraining and fine-tuning.
        jobs: arms side by side.
        training: how every arm trains.

    Returns:
        The table.

    Raises:
        ValueError: the folder holds other images, or results of other commands.
        BlockingIOError: another call works there.
        subprocess.CalledProcessError: a stage failed.
    """
    output = output.resolve()
    places = {name: World(output / name, WORLDS[name][0]) for name in worlds}
    arms = [(places[name], ROWS[row], seed) for name, row, seed in arm_order(worlds, rows, seeds)]
    start, total, done = time.perf_counter(), len(arms), 0

    def report(chain: Chain) -> None:
        nonlocal done
        done += 1
        print(f"\n== {chain.name} finished: {done} of {len(pending)} in {(time.perf_counter() - start) / 60:.0f} minutes", flush=True)
        write_table(output, places, seeds)

    with lock_folder(output) as lock:
        for world in places.values():
            world.draw()
        # The upper bound's label maps come from annotations; every other arm knows images only.
        used = {(world, row.regions) for world, row, _ in arms if row.regions in ("fh", "annotations")}
        run_chains([world.masks(generator) for world, generator in sorted(used, key=str)], checkout, lock=lock)
        chains = [world.arm(row, seed, training) for world, row, seed in arms]
        pending = [chain for chain in chains if not all([stage.is_finished() for stage in chain.stages])]
        print(f"{total} arms, {total - len(pending)} of them finished before; {jobs} at a time", flush=True)
        run_chains(pending, checkout, jobs, report, lock)
    return write_table(output, places, seeds)


def arm_order(worlds: Sequence[str], rows: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, str, int]]:
    """(world, row, seed) of every arm: the main comparison first, then the upper bound, the hard world last."""
    arms = [(world, row, seed) for world in worlds for seed in seeds for row in WORLDS[world][1] if row in rows]
    return sorted(arms, key=lambda arm: (list(WORLDS).index(arm[0]), arm[1] == "annotations"))


def read_scores(world: World, row: Row, seeds: Sequence[int]) -> Score:
    """The AP of a row's finished arms."""
    results = {seed: world.arm_folder(row, seed) / "finetune/results.json" for seed in seeds}
    found = {seed: read_ap(path) for seed, path in results.items() if path.is_file()}
    return Score({seed: ap[0] for seed, ap in found.items()}, {seed: ap[1] for seed, ap in found.items()})


def write_table(output: Path, worlds: dict[str, World], seeds: Sequence[int]) -> str:
    """Write ``evidence.md`` and ``evidence.json`` from what has finished; returns the former."""
    scores = {name: {row: read_scores(world, ROWS[row], seeds) for row in WORLDS[name][1]} for name, world in worlds.items()}
    scores = {name: {row: score for row, score in rows.items() if score.box or not ROWS[row].optional} for name, rows in scores.items()}
    plain = {name: {row: {"box": score.box, "mask": score.mask} for row, score in rows.items()} for name, rows in scores.items()}
    text = "\n".join(line for name, rows in scores.items() for line in table_lines(WORLDS[name][0], rows))
    write_atomically(output / "evidence.json", json.dumps(plain, indent=1).encode())
    write_atomically(output / "evidence.md", text.encode())
    return text


def table_lines(shapes: ShapesConfig, scores: dict[str, Score]) -> list[str]:
    """A world's table in Markdown: mean and standard deviation over seeds, each seed, and the gain over random initialisation."""
    lines = [
        f"Material agrees with the category with probability {shapes.agreement}:",
        "",
        "| initialisation | seeds | box AP | mask AP | box AP of each seed | gain, box | gain, mask |",
        "|---|---|---|---|---|---|---|",
    ]
    base = scores["random"]
    for name, score in scores.items():
        each = ", ".join(f"{value:.1f}" for value in score.box.values()) or "not run"
        cells = [ROWS[name].title, str(len(score.box)), mean_and_spread(score.box), mean_and_spread(score.mask), each]
        cells += ["" if name == "random" else gain(*pair) for pair in ((score.box, base.box), (score.mask, base.mask))]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def mean_and_spread(values: dict[int, float]) -> str:
    """``mean ± standard deviation`` (n - 1) over seeds."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values.values()):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values.values()):.1f}{spread}"


def gain(values: dict[int, float], base: dict[int, float]) -> str:
    """Mean difference over the seeds that both have, and the smallest one."""
    differences = [value - base[seed] for seed, value in values.items() if seed in base]
    return f"{statistics.mean(differences):+.1f} (least {min(differences):+.1f})" if differences else "-"
