"""``make quickstart``: from nothing to the AP of a Mask R-CNN whose backbone was pretrained without labels, beside one that was not."""

import json
import time
from pathlib import Path

from detcon_d2.engine.setup import has_fast_bf16
from detcon_d2.quickstart.commands import Chain, Stage, lock_folder, run_chains
from detcon_d2.quickstart.runs import ROWS, Training, World
from detcon_d2.quickstart.shapes import ShapesConfig

_ARMS = ("random", "detcon_b")


def quickstart_training(fast_bf16: bool) -> Training:
    """What fits into ten minutes of two cores; the claim belongs to ``make evidence``.

    Args:
        fast_bf16: whether the CPU has instructions for bf16; without them pretraining takes five times as long.
    """
    return Training(pretrain_epochs=12.0, finetune_iterations=300) if fast_bf16 else Training(pretrain_epochs=3.5, finetune_iterations=160)


def quickstart_steps(world: World, seed: int, training: Training) -> list[tuple[str, list[Chain]]]:
    """Headline and chains of each step; the chains of one step run side by side.

    Args:
        world: whose images are drawn already.
        seed: of pretraining and fine-tuning.
        training: how long.
    """
    random, detcon = (ROWS[name] for name in _ARMS)
    folders = {row: world.arm_folder(row, None) for row in (random, detcon)}
    pretraining = world.pretraining(detcon, seed, training, folders[detcon])
    finetuning = [Chain(row.name, (world.finetuning(row, seed, training, folder),)) for row, folder in folders.items()]
    page = world.folder / "report.html"
    report = Stage("report", ("tools/report.py", str(world.folder)), world.folder / "stages/report.json", page)
    return [
        ("regions by FH, without labels", [world.masks("fh")]),
        ("a picture of the views", [world.sheet(detcon)]),
        ("DetCon_B pretraining of a ResNet-18, and its conversion to a Detectron2 backbone", [Chain(detcon.name, pretraining)]),
        ("Mask R-CNN with FPN, side by side: from random initialisation and from the pretrained backbone", finetuning),
        ("the report", [Chain("report", (report,))]),
    ]


def run_quickstart(checkout: Path, output: Path, seed: int) -> None:
    """Run what is not finished yet, and say where to look.

    Args:
        checkout: folder that holds ``tools`` and ``configs``.
        output: where everything is written.
        seed: of the data set, pretraining and fine-tuning.

    Raises:
        ValueError: ``output`` holds the data set of another seed, or results of other commands.
        BlockingIOError: another call works there.
        subprocess.CalledProcessError: a stage failed.
    """
    start = time.perf_counter()
    world = World(output.resolve(), ShapesConfig(seed=seed))
    training = quickstart_training(has_fast_bf16())
    steps = quickstart_steps(world, seed, training)
    lengths = f"{training.pretrain_epochs:g} epochs of pretraining, {training.finetune_iterations} iterations of fine-tuning"
    print(f"{lengths}: what this kind of CPU does in less than ten minutes on two cores", flush=True)
    with lock_folder(world.folder) as lock:
        _headline(1, len(steps) + 1, "built-in images of textured shapes")
        world.draw()
        for number, (title, chains) in enumerate(steps, start=2):
            _headline(number, len(steps) + 1, title)
            if all([stage.is_finished() for chain in chains for stage in chain.stages]):
                print("finished before", flush=True)
            run_chains(chains, checkout, jobs=len(chains), lock=lock)
    print(summary(world.folder, time.perf_counter() - start))


def summary(output: Path, seconds: float) -> str:
    """The closing lines: AP of both arms, and which files to open."""
    lines = [f"\nQuickstart finished in {seconds / 60:.1f} minutes.", f"  {'initialisation':<24} box AP  mask AP"]
    for name in _ARMS:
        box, mask = read_ap(output / name / "finetune/results.json")
        lines.append(f"  {ROWS[name].title:<24} {box:6.1f}  {mask:7.1f}")
    looks = (
        ("report.html", "the report: open it in a browser"),
        ("views.png", "images, their regions, and two views of each"),
        ("detcon_b/backbone.pth", "the converted backbone, for MODEL.WEIGHTS; backbone.yaml beside it is the matching config"),
        ("detcon_b/pretrain/log.txt", "pretraining, line by line"),
        ("detcon_b/finetune/log.txt", "fine-tuning, line by line"),
    )
    lines += ["Where to look:", *(f"  {output / path}: {what}" for path, what in looks)]
    return "\n".join(lines)


def read_ap(results: Path) -> tuple[float, float]:
    """Box and mask AP, 0..100, of a ``results.json`` with one data set.

    Raises:
        FileNotFoundError: with the path.
    """
    (tasks,) = json.loads(results.read_text(encoding="utf-8"))["results"].values()
    return tasks["bbox"]["AP"], tasks["segm"]["AP"]


def _headline(number: int, total: int, title: str) -> None:
    print(f"\n[{number}/{total}] {title}", flush=True)
