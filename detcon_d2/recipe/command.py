"""A recipe for your own images: looks at them, measures this machine, and writes configs and a script that is ready to run.

The config files give a reason for every choice.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import torch

import detcon_d2.methods  # noqa: F401  (registers the meta-architectures and backbones)
from detcon_d2.masks.worker import available_cores
from detcon_d2.recipe.budget import Speed, calibrate, plan, schedule_of_detector, schedule_of_pretraining
from detcon_d2.recipe.config import Choice, chosen_config, write_config
from detcon_d2.recipe.detector import choose_detector
from detcon_d2.recipe.look import Images, Objects, look_at_images, look_at_objects
from detcon_d2.recipe.regions import FEW, Candidate, sheet_rows, try_regions
from detcon_d2.recipe.results import gains_table
from detcon_d2.recipe.script import write_script
from detcon_d2.recipe.sheet import write_sheet
from detcon_d2.recipe.views import CONTRAST, CPU, GPU, Setup, choose_colors, choose_views

_EPILOG = """
examples
  a chain for an hour of this machine, with a detector that shows the gain over random weights
    %(prog)s /data/photos --output output/recipe --hours 1 \\
        --train coco:/data/train.json,/data/photos --test coco:/data/test.json,/data/test
    sh output/recipe/run.sh
  boxes in VOC's or YOLO's format; without --test every fifth annotated image is kept for it
    %(prog)s /data/voc/JPEGImages --output output/recipe --train voc:/data/voc,trainval --test voc:/data/voc,test
  pretraining alone
    %(prog)s /data/photos --output output/recipe --hours 8

OUTPUT gets pretrain.yaml, detector.yaml, run.sh and recipe.html, which shows what was seen. On a machine with a GPU the hours are those of
the GPU, and the chain is for a ResNet-50 at 224 px; elsewhere for a ResNet-18.
exit status: 0 done; 2 nothing written, the message says why
"""


def main(argv: list[str] | None = None) -> int:
    """Write the chain; returns the exit status, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", metavar="IMAGES", nargs="?", help="folder or spec of the images to pretrain on")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--train", metavar="SPEC", help="annotated images to train a detector on: coco:, voc:, yolo:, ...")
    parser.add_argument("--test", metavar="SPEC", help="annotated images to test it on")
    parser.add_argument("--hours", type=float, default=1.0, help="of this machine, for the whole chain (default: %(default)s)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="print what a finished chain gained, nothing else")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        if args.results:
            print(gains_table(args.results))
        elif args.images is None or args.output is None or args.hours <= 0 or (args.test and not args.train):
            raise ValueError("expected IMAGES, --output, hours above 0, and --train where there is --test")
        else:
            write_recipe(args.images, args.output, args.train, args.test, args.hours)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


def write_recipe(name: str, output: Path, train: str | None, test: str | None, hours: float) -> None:
    """Look, calibrate and write; raises ValueError as the parts."""
    output = output.resolve()
    images = look_at_images(name)
    output.mkdir(parents=True, exist_ok=True)  # before the work
    print(
        f"{len(images.records)} images, the median {images.width} x {images.height}; brightness {images.brightness:.0f} of 255", flush=True
    )
    objects = look_at_objects(train, test, output) if train else None
    if objects:
        kind = "masks" if objects.masks else "boxes"
        print(f"{len(objects.boxes)} objects with {kind}, of {len(objects.classes)} classes, in {objects.train_images} images", flush=True)
    setup = GPU if torch.cuda.is_available() else CPU
    views = choose_views(setup, objects)
    colors, figures = choose_colors(setup, images, objects, views)
    print(figures.line().partition(";")[0], flush=True)
    candidates, chosen = try_regions(chosen_config(setup.pretraining, views), images, objects)
    if setup is CPU and candidates[chosen].figures.kept < FEW:
        setup = CONTRAST
        views = choose_views(setup, objects)
    print(*(f"{'*' if index == chosen else ' '} {one.line()}" for index, one in enumerate(candidates)), sep="\n", flush=True)
    pretraining = [*_pretraining(setup, images, output, candidates, chosen), *views, *colors]
    detector = []
    if objects:
        place = Choice("OUTPUT_DIR", str(output / "seed_0" / "pretrained"), "run.sh has a folder for each seed and its initial weights")
        detector = [*_workers(setup), place, *choose_detector(setup, images, objects)]
    write_all(output, setup, images, objects, candidates, chosen, pretraining, detector, hours)


def write_all(
    output: Path,
    setup: Setup,
    images: Images,
    objects: Objects | None,
    candidates: list[Candidate],
    chosen: int,
    pretraining: list[Choice],
    detector: list[Choice],
    hours: float,
) -> None:
    """Calibrate, and write what the choices and the budget give."""
    batch, workers, one = batch_size(setup, len(images.records)), available_cores(), candidates[chosen]
    base = setup.detector if objects is None or objects.masks else setup.boxes
    speeds: list[Speed] = []
    with tempfile.TemporaryDirectory() as folder:
        trial = [
            *pretraining,
            *schedule_of_pretraining(0.0, len(images.records), batch, setup.batch, ""),
            Choice("DETCON.MASKS.SOURCE", "grid", ""),
        ]
        trials = [(setup.pretraining, trial, ())]
        if objects:
            trials.append((base, [*detector, *schedule_of_detector(1, 1, "")], ("DATASETS.TEST", "()", "TEST.PRECISE_BN.ENABLED", "False")))
        for number, (its_base, choices, options) in enumerate(trials):
            write_config(Path(folder, f"{number}.yaml"), "A trial.", its_base, choices)
            speeds.append(calibrate(Path(folder, f"{number}.yaml"), Path(folder, str(number)), options))
            print(f"{'detector' if number else 'pretraining'}: {speeds[-1].iteration:.2f} s an iteration here", flush=True)
    labelled, tested = (objects.train_images, objects.test_images) if objects else (0, 0)
    masks = len(images.records) * one.seconds(images) / workers
    found = plan(hours, len(images.records), batch, speeds[0], masks, speeds[1] if objects else None, labelled, tested)
    speed = f"what {hours:g} hours leave at {batch / speeds[0].iteration:.0f} images/s, measured here"
    pretraining = [*pretraining, *schedule_of_pretraining(found.epochs, len(images.records), batch, setup.batch, speed)]
    write_config(output / "pretrain.yaml", f"Pretraining: {setup.text}.", setup.pretraining, pretraining)
    configs = {"pretrain.yaml": pretraining}
    if objects:
        speed = f"{speeds[1].iteration:.2f} s each, measured here"
        detector = [*detector, *schedule_of_detector(found.iterations, labelled, speed)]
        write_config(output / "detector.yaml", "The detector, the same from any weights.", base, detector)
        configs["detector.yaml"] = detector
    script = write_script(output, images.spec, one.generator, workers, detector=bool(objects))
    rows = sheet_rows(chosen_config(setup.pretraining, pretraining), images, one.generator, 6)
    write_sheet(output / "recipe.html", images, objects, rows, candidates, chosen, configs, found.seconds, script)
    minutes = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in found.seconds.items())
    print(f"{found.epochs:g} epochs, {found.iterations} iterations of the detector; minutes: {minutes}")
    print(f"look at   {output / 'recipe.html'}", f"then run  sh {output / 'run.sh'}", script, sep="\n")


def batch_size(setup: Setup, images: int) -> int:
    """A power of 2, at most a quarter of the images, and at least 2."""
    return max(min(setup.batch, 1 << max(images // 4, 1).bit_length() - 1), 2)


def _pretraining(setup: Setup, images: Images, output: Path, candidates: list[Candidate], chosen: int) -> list[Choice]:
    tried = f"{candidates[chosen].line()}. recipe.html has the {len(candidates)} that were tried"
    choices = [
        *_workers(setup),
        Choice("MODEL.META_ARCHITECTURE", chosen_config(setup.pretraining, []).MODEL.META_ARCHITECTURE, setup.method),
        Choice("OUTPUT_DIR", str(output / "seed_0" / "pretrain"), "run.sh has a folder for each seed"),
        Choice(
            "DATASETS.TRAIN", (images.spec,), f"all {len(images.records)} images, also those of the detector, without their annotations"
        ),
        Choice("DETCON.MASKS.ROOTS", (str(output / "masks"),), tried),
    ]
    if setup is GPU:
        adam = "weights trained by LARS have norms that usual rates of fine-tuning do not fit"
        choices += [
            Choice("DETCON.SOLVER.OPTIMIZER", "AdamW", adam),
            Choice("DETCON.SOLVER.BASE_LR_256", 0.0, "SOLVER.BASE_LR is used"),
            Choice("SOLVER.WEIGHT_DECAY", 0.01, "that of configs/quickstart"),
            Choice("DETCON.AUG.MODE", "fast", "several times as fast, and within 1 of 255"),
        ]
    return choices


def _workers(setup: Setup) -> list[Choice]:
    cores = available_cores()
    number = min(cores, 16) if setup is GPU else min(cores - 1, 1)
    return [Choice("DATALOADER.NUM_WORKERS", number, f"{cores} cores; one process prepares views faster than a CPU trains on them")]
