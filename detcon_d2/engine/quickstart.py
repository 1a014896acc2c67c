"""``make quickstart``: from nothing to a pretrained backbone on built-in images, by the commands that a user would type.

Each stage leaves a product on disk; a second call continues with the first stage that is not finished.
"""

import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from detcon_d2.data.shapes import ShapesConfig, generate_shapes, split_paths

# Chosen by the number of regions, about 15 an image, without a look at annotations: the paper's 1000 leaves almost none at 128 px.
_FH = ("--scale", "300", "--sigma", "0.8", "--min-size", "100")


@dataclass(frozen=True)
class Stage:
    """One command of the quickstart.

    Attributes:
        title: what it does, for the headline.
        command: the command line, as a user would type it after ``python``.
        product: file that exists when the stage is finished; ``None``: the command itself sees what is left to do.
    """

    title: str
    command: tuple[str, ...]
    product: Path | None = None


def pretraining_stages(checkout: Path, output: Path, seed: int) -> list[Stage]:
    """Masks, the sheet to look at, and DetCon_B on the unlabelled images.

    Args:
        checkout: folder that holds ``tools`` and ``configs``.
        output: folder of the quickstart.
        seed: of the pretraining run.
    """
    source = f"folder:{split_paths(output / 'data', 'unlabeled').images}"
    masks, run = output / "masks_fh", output / "detcon_b"
    config = str(checkout / "configs/quickstart/detcon_b_R_18.yaml")
    overrides = ("DATASETS.TRAIN", repr((source,)), "DETCON.MASKS.ROOTS", repr((str(masks),)), "SEED", str(seed))
    tools = checkout / "tools"
    sheet = output / "views.png"
    return [
        Stage("regions by FH", (str(tools / "generate_masks.py"), source, str(masks), "--generator", "fh", *_FH, "--workers", "2")),
        Stage(
            "sheet of views and regions",
            (str(tools / "visualize_views.py"), "--config-file", config, "--output", str(sheet), *overrides),
            sheet,
        ),
        Stage(
            "DetCon_B pretraining, ResNet-18",
            (str(tools / "train_net.py"), "--config-file", config, "--resume", *overrides, "OUTPUT_DIR", str(run)),
            run / "model_final.pth",
        ),
    ]


def run_quickstart(checkout: Path, output: Path, seed: int) -> None:
    """Run what is not finished yet, and say where to look.

    Args:
        checkout: folder that holds ``tools`` and ``configs``.
        output: where everything is written.
        seed: of the data set and of pretraining.

    Raises:
        ValueError: ``output`` holds the data set of another seed.
        subprocess.CalledProcessError: a stage failed.
    """
    start = time.perf_counter()
    stages = pretraining_stages(checkout, output, seed)
    _headline(1, len(stages) + 1, "built-in images of textured shapes")
    generate_shapes(output / "data", ShapesConfig(seed=seed))
    for number, stage in enumerate(stages, start=2):
        _headline(number, len(stages) + 1, stage.title)
        run_stage(stage)
    print(summary(output, time.perf_counter() - start))


def run_stage(stage: Stage) -> None:
    """Run a stage's command in this environment, unless its product is there.

    Raises:
        subprocess.CalledProcessError: the command's exit code is not 0.
    """
    if stage.product is not None and stage.product.is_file():
        print(f"finished before: {stage.product}", flush=True)
        return
    print(f"$ python {shlex.join(stage.command)}", flush=True)
    subprocess.run([sys.executable, *stage.command], check=True)


def summary(output: Path, seconds: float) -> str:
    """The closing lines: what was learned, by the figures of the log, and which files to open."""
    run = output / "detcon_b"
    rows = [row for row in map(json.loads, (run / "metrics.json").read_text().splitlines()) if "total_loss" in row]
    figures = []
    for key, title in (("loss_detcon", "contrastive loss"), ("learning/retrieval_top1", "same region found in other view")):
        values = [row[key] for row in rows if key in row]
        if values:
            figures.append(f"  {title:<34} {values[0]:.3f} -> {values[-1]:.3f}")
    looks = (
        (output / "views.png", "the images, their regions, and two views of each"),
        (run / "log.txt", "the log; std near 0 would be collapse, retrieval should rise"),
        (run / "metrics.json", "the same figures, one JSON object a line"),
        (run / "model_final.pth", "the pretrained network"),
    )
    return "\n".join(
        [
            f"\nQuickstart finished in {seconds / 60:.1f} minutes. From iteration {rows[0]['iteration']} to {rows[-1]['iteration']}:",
            *figures,
            "Where to look:",
            *(f"  {path}: {what}" for path, what in looks),
            f"  curves: {shlex.join([sys.executable, '-m', 'tensorboard.main', '--logdir', str(run)])}",
        ]
    )


def _headline(number: int, total: int, title: str) -> None:
    print(f"\n[{number}/{total}] {title}", flush=True)
