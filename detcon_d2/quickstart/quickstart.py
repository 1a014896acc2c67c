"""From built-in images to the AP of a pretrained Mask R-CNN, compared with random initialisation, in minutes on two CPU cores.

Commands that have finished do not run again. The environment variables QUICKSTART_OUTPUT and QUICKSTART_SEED set the defaults.
"""

import argparse
import os
import time
from pathlib import Path

from detcon_d2.quickstart.commands import Chain, Command, explain_failure, is_finished, lock_folder, run_chains
from detcon_d2.quickstart.results import read_evaluation
from detcon_d2.quickstart.runs import METHODS, DataSet, Run, Training
from detcon_d2.quickstart.shapes import ShapesConfig

_METHODS = ("random", "detcon_b")
_OUTPUTS = (
    ("report.html", "the report: open it in a browser"),
    ("views.png", "images, their regions, and two views of each"),
    (f"{_METHODS[1]}/backbone.pth", "the converted backbone, for MODEL.WEIGHTS; backbone.yaml in the same folder is the matching config"),
    (f"{_METHODS[1]}/pretrain/log.txt", "pretraining, line by line"),
    (f"{_METHODS[1]}/finetune/log.txt", "fine-tuning, line by line"),
)


def main(argv: list[str] | None = None) -> int | None:
    """``tools/quickstart.py``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=os.environ.get("QUICKSTART_OUTPUT", "output/quickstart"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=os.environ.get("QUICKSTART_SEED", "0"), help="of data set, pretraining and fine-tuning")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"the seed is {args.seed}; expected a number >= 0")
    with explain_failure("quickstart"):
        # Imported here: the processes that draw images import this module too, and need no torch.
        from detcon_d2.engine.setup import has_fast_bf16

        run_quickstart(args.output, quickstart_training(args.seed, has_fast_bf16()))


def quickstart_training(seed: int, fast_bf16: bool) -> Training:
    """What takes 6 to 15 minutes on two cores. Pretraining takes five times as long on a CPU without instructions for bf16."""
    return Training(seed, 12.0, 300) if fast_bf16 else Training(seed, 3.5, 160)


def quickstart_runs(folder: Path) -> list[Run]:
    """Random initialisation, which is the baseline, and the pretrained method."""
    return [Run(METHODS[name], folder / name) for name in _METHODS]


def quickstart_plan(data_set: DataSet, training: Training) -> dict[str, dict[str, Chain]]:
    """Headline -> chains by name, in order; the chains under one headline run at the same time. The images exist already."""
    folder, runs = data_set.folder, quickstart_runs(data_set.folder)
    method, title = runs[-1].method, f"pretraining of a ResNet-18 ({runs[-1].method.title}), and its conversion to a Detectron2 backbone"
    report = Command("report", ("tools/report.py", str(folder)), folder / "stages/report.json", folder / "report.html")
    return {
        "regions by FH, without labels": {"regions": [data_set.masks(method.masks)]},
        "a picture of the views": {"views": [data_set.sheet(method)]},
        title: {method.name: data_set.pretraining(runs[-1], training)},
        "Mask R-CNN with FPN, from random initialisation and from the pretrained backbone at the same time": {
            run.method.name: [data_set.finetuning(run, training)] for run in runs
        },
        "the report": {"report": [report]},
    }


def run_quickstart(output: Path, training: Training) -> None:
    """Run what is not finished yet, and print which files to open. The seed of the training is also that of the data set.

    Raises ValueError if ``output`` holds the data set of another seed, and as :func:`lock_folder` and :func:`run_chains`.
    """
    start = time.perf_counter()
    data_set = DataSet(output.resolve(), ShapesConfig(seed=training.seed))
    plan = quickstart_plan(data_set, training)
    lengths = f"{training.pretrain_epochs:g} epochs of pretraining, {training.finetune_iterations} iterations of fine-tuning"
    print(f"{lengths}: what this kind of CPU does in 6 to 15 minutes on two cores", flush=True)
    with lock_folder(data_set.folder):
        print(f"\n[1/{len(plan) + 1}] built-in images of textured shapes", flush=True)
        data_set.generate()
        for number, (headline, chains) in enumerate(plan.items(), start=2):
            print(f"\n[{number}/{len(plan) + 1}] {headline}", flush=True)
            if all([is_finished(chain) for chain in chains.values()]):
                print("finished before", flush=True)
            run_chains(chains, jobs=len(chains))
    print(summary(data_set, time.perf_counter() - start))


def summary(data_set: DataSet, seconds: float) -> str:
    """The last lines of the quickstart: AP of both runs, and which files to open."""
    lines = [f"\nQuickstart finished in {seconds / 60:.1f} minutes.", f"  {'initialisation':<24} box AP  mask AP"]
    for run in quickstart_runs(data_set.folder):
        found = read_evaluation(run.finetune)
        lines.append(f"  {run.method.title:<24} {found.ap('bbox'):6.1f}  {found.ap('segm'):7.1f}")
    return "\n".join([*lines, "Where to look:", *(f"  {data_set.folder / path}: {what}" for path, what in _OUTPUTS)])
