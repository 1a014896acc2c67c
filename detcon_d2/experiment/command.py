"""Compare pretraining methods on your own data: over seeds, lengths of pretraining and numbers of labels, by the same detector.

The settings of fine-tuning are chosen for every method by the same sweep, on images that are not the test set.
"""

import argparse
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from detcon_d2.experiment.plan import read_plan
from detcon_d2.experiment.report import document, markdown, read_rows, scores_json
from detcon_d2.experiment.runs import Experiment, Setting, open_experiment
from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.masks.worker import available_cores
from detcon_d2.quickstart.commands import Chain, explain_failure, is_finished, lock_folder, python_arguments, run_chains

_EPILOG = """
a plan is a YAML file; paths may be relative to the folder in which the command runs
  output: output/nuclei
  images: /data/photos                              # without labels, for every pretraining
  train: coco:/data/train.json,/data/photos         # coco:, voc:, yolo:, cityscapes: or masks:
  test: coco:/data/test.json,/data/test
  detector: output/recipe/detector.yaml             # as 'detcon_d2 recipe' writes it, or a name in configs/
  seeds: [0, 1, 2]                                  # of pretraining, choice of labels and fine-tuning
  budgets: [50000, 150000]                          # images that a pretraining sees: each image of each epoch counts;
                                                    # or seconds: [600], by a calibration of each method with the same --jobs
  knn: {train: /data/classes/train, test: /data/classes/val, size: 224}    # optional: kNN of the frozen encoders
  fractions: [0.1, 1.0]                             # of the labelled images
  sweep:                                            # optional: each method takes the best of all combinations
    SOLVER.BASE_LR: [3.0e-4, 6.0e-4, 1.2e-3]
  validation: 0.2                                   # the sweep's images: a share of 'train', or a data set
  baselines: [random, image_level]                  # gains are over these
  regions:                                          # options of generate_masks
    fh: --generator fh --scale 282 --sigma 0.8 --min-size 94
  methods:
    random: {}
    detcon: {config: output/recipe/pretrain.yaml, regions: fh}
    image_level:
      config: output/recipe/pretrain.yaml
      options: {DETCON.MASKS.SOURCE: grid, DETCON.MASKS.GRID: 1}
    own_scenes: {config: output/recipe/pretrain.yaml, regions: fh, images: /data/scenes}
    another_program: {weights: 'weights/backbone_{seed}.pth'}      # converted by convert_to_d2

examples
  %(prog)s plan.yaml --dry-run       # the commands, without running any
  %(prog)s plan.yaml --jobs 4        # four runs at a time; stop it at any time, the same command continues

The output folder gets experiment.html, experiment.md and experiment.json, which are written again after each run, and every run's folder.
A seed is finished for all methods before the next one begins.
"""


def main(argv: list[str] | None = None) -> int | None:
    """``tools/experiment.py``."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, metavar="PLAN.yaml", help="what is compared")
    jobs = min(8, available_cores())
    parser.add_argument("--jobs", type=int, default=jobs, help=f"runs at the same time; they share the cores (default here: {jobs})")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs is {args.jobs}; expected at least 1")
    with explain_failure("experiment"):
        plan = read_plan(args.plan)
        with lock_folder(plan.output):
            experiment = open_experiment(plan)
            if args.dry_run:
                _print_commands(experiment)
            else:
                print(run_experiment(experiment, args.jobs))


def run_experiment(experiment: Experiment, jobs: int) -> str:
    """Run what is not finished yet, ``jobs`` runs at the same time; returns the table, which is also written after each run.

    Raises as :func:`~detcon_d2.quickstart.commands.run_chains`; a run that fails after the calibrations ends only what needs its product.
    """
    start, plan, failures = time.perf_counter(), experiment.plan, []

    def run(headline: str, chains: dict[str, Chain], on_finished: Callable[[], object] | None = None) -> None:
        try:
            _run(headline, chains, jobs, start, on_finished)
        except subprocess.CalledProcessError as error:
            failures.append(error)

    run_chains({command.title: [command] for command in experiment.label_maps()})
    calibrations = experiment.calibrations()
    _run("calibrations", {command.title: [command] for command in calibrations}, jobs, start)
    for checkpoint in (path for command in calibrations for path in command.product.parent.glob("*.pth")):
        checkpoint.unlink()  # up to 0.2 GB that nothing reads
    for seed in plan.seeds:
        run(f"seed {seed}: pretraining", _pretrainings(experiment, seed))
        settings = [setting for setting in experiment.settings() if experiment.has_weights(setting, seed)]
        run(f"seed {seed}: kNN", _neighbours(experiment, settings, seed))
        if seed == plan.seeds[0]:
            run("sweep of fine-tuning", {one.title: [one] for setting in settings for one in experiment.sweep(setting)})
        detectors = [experiment.fine_tuning(setting, seed) for setting in settings if is_finished(experiment.sweep(setting))]
        run(f"seed {seed}: detectors", {one.title: [one] for one in detectors}, lambda: write_results(experiment))
    table = write_results(experiment)
    if failures:
        print(table)
        raise failures[0]
    return table


def write_results(experiment: Experiment) -> str:
    """Write table, page and JSON of the finished runs; returns the table."""
    rows, plan = read_rows(experiment), experiment.plan
    text = markdown(rows, plan.baselines)
    contents = {"experiment.md": text, "experiment.json": scores_json(rows, plan.baselines), "experiment.html": document(experiment, rows)}
    for name, content in contents.items():
        write_bytes_atomically(plan.output / name, content.encode())
    return f"{text}\n{plan.output / 'experiment.html'}: open it in a browser"


def _pretrainings(experiment: Experiment, seed: int) -> dict[str, Chain]:
    runs = dict.fromkeys((setting.method, setting.budget) for setting in experiment.settings() if setting.method.config)
    return {f"{method.name}{budget.text()}, seed {seed}": experiment.pretraining(method, budget, seed) for method, budget in runs}


def _neighbours(experiment: Experiment, settings: Sequence[Setting], seed: int) -> dict[str, Chain]:
    encoders = dict.fromkeys((setting.method, setting.budget) for setting in settings) if experiment.plan.knn else ()
    commands = [experiment.knn(method, budget, seed) for method, budget in encoders]
    return {command.title: [command] for command in commands}


def _run(headline: str, chains: dict[str, Chain], jobs: int, start: float, on_finished: Callable[[], object] | None = None) -> None:
    pending = {name: chain for name, chain in chains.items() if not is_finished(chain)}
    done = []
    if chains:
        print(f"\n== {headline}: {len(chains)} runs, {len(chains) - len(pending)} of them finished before", flush=True)

    def report(name: str) -> None:
        done.append(name)
        print(f"== {name} finished: {len(done)} of {len(pending)}, {(time.perf_counter() - start) / 60:.0f} minutes", flush=True)
        if on_finished is not None:
            on_finished()

    run_chains(pending, jobs, report)


def _print_commands(experiment: Experiment) -> None:
    plan, settings = experiment.plan, experiment.settings()
    commands, calibrations = list(experiment.label_maps()), experiment.calibrations()
    commands += calibrations
    if calibrated := is_finished(calibrations):
        for seed in plan.seeds:
            chains = (*_pretrainings(experiment, seed).values(), *_neighbours(experiment, settings, seed).values())
            commands += [command for chain in chains for command in chain]
    commands += [command for setting in settings for command in experiment.sweep(setting)]
    chosen = experiment.labels is not None
    commands += [] if chosen else [experiment.fine_tuning(setting, seed) for seed in plan.seeds for setting in settings]
    for command in commands:
        print(f"# {command.title}{' (finished)' if command.is_finished() else ''}")
        print(f"python {shlex.join(python_arguments(command.words))}")
    if not calibrated:
        print("# and the pretrainings, whose iterations the calibrations decide")
    if chosen:
        print(f"# and {len(plan.seeds) * len(settings)} detectors with the settings that the sweep chooses")
