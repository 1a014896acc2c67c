"""Does pretraining raise AP? Pretrains and fine-tunes with every method over several seeds on built-in images, and writes the table.

About three hours on two CPU cores with bf16 instructions; five times as long without them, so use --epochs 5 there. Stop it at any time:
the same command continues run by run, and the table contains the runs that have finished.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.masks.worker import available_cores
from detcon_d2.quickstart.clips import generate_clips
from detcon_d2.quickstart.commands import explain_failure, is_finished, lock_folder, run_chains
from detcon_d2.quickstart.gains import gain_text, mean_and_deviation, paired_gain
from detcon_d2.quickstart.photos import generate_photos
from detcon_d2.quickstart.pretext import THRESHOLDS, run_pretext
from detcon_d2.quickstart.results import read_evaluation
from detcon_d2.quickstart.runs import METHODS, PEERS, PRETEXT, REGION_SPLITS, VIDEO, DataSet, Training
from detcon_d2.quickstart.shapes import ShapesConfig

_PEERS = ("supervised", *(title.lower() for title in PEERS))
_PRETEXT = tuple(method.name for method in PRETEXT)

DATA_SETS: dict[str, tuple[ShapesConfig, tuple[str, ...]]] = {
    "easy": (
        ShapesConfig(seed=0, agreement=0.8),
        ("random", "detcon_b", "detcon_s", "detcon_b_kmeans", "detcon_b_grid5", "grid", "annotations", *_PEERS, *_PRETEXT),
    ),
    "hard": (ShapesConfig(seed=0, agreement=0.0), ("random", "detcon_b", "detcon_s")),
}
"""The images of each data set, and its methods. Material agrees with the category mostly, as in nature, or only by chance."""

PRETRAIN_EPOCHS, FINETUNE_ITERATIONS = 40.0, 300
"""1875 iterations of batch 64, and 300 of batch 8."""
KNN_EPOCHS, KNN_METHODS = 2.0, (*_PEERS, "detcon_s", "detcon_b")
"""Of pretraining for kNN: minutes on one core."""

Scores = dict[str, dict[str, dict[int, float]]]
"""AP in percent by method, "box" or "mask", and seed; runs that have not finished are absent."""

_EXAMPLES = """examples
  %(prog)s --methods random detcon_s grid --data-sets easy                     # one comparison
  %(prog)s --methods detcon_b --output output/fp32 -- SOLVER.AMP.ENABLED False    # one method in full precision, in its own folder
  %(prog)s --knn --output output/knn            # kNN of regions' categories by the frozen encoder of every method, next to random ones
  %(prog)s --pretext --output output/pretext    # accuracy of the pretext tasks on photographs that were not trained on, next to chance
  %(prog)s --draw --output output/data          # the images alone, for plans of 'detcon_d2 experiment'

"""
_DEFAULT_METHODS = [method.name for method in METHODS.values() if not method.optional]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line of ``tools/evidence.py``."""
    epilog = _EXAMPLES + "methods\n" + "\n".join(f"  {method.name:<21} {method.title}" for method in (METHODS | VIDEO).values())
    parser = argparse.ArgumentParser(description=__doc__, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default="output/evidence", help="folder to write to (default: output/evidence)")
    about = "easy: the material mostly agrees with the category; hard: only by chance (default: both)"
    parser.add_argument("--data-sets", "--worlds", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), metavar="NAME", help=about)
    about = f"methods to compare, of the list below (default: {' '.join(_DEFAULT_METHODS)})"
    parser.add_argument("--methods", "--rows", nargs="+", choices=METHODS | VIDEO, metavar="NAME", help=about)
    about = f"pretrain on annotated regions as images, and classify them by kNN; the methods are then {' '.join(KNN_METHODS)}, the seed 0"
    parser.add_argument("--knn", action="store_true", help=about)
    about = "train pretext tasks on built-in photographs or clips, and look at their accuracy on held-out ones; the methods are then"
    parser.add_argument("--pretext", action="store_true", help=f"{about} {' '.join(THRESHOLDS)}, the seed 0")
    about = "write the built-in data sets, and train nothing: shapes, its regions as class folders, photographs and clips"
    parser.add_argument("--draw", action="store_true", help=about)
    parser.add_argument("--seeds", nargs="+", type=int, help="of pretraining and fine-tuning (default: 0 1 2)")
    parser.add_argument("--epochs", type=float, help=f"of pretraining (default: {PRETRAIN_EPOCHS:g}; with --knn {KNN_EPOCHS:g})")
    jobs = min(8, available_cores())
    parser.add_argument("--jobs", type=int, default=jobs, help=f"runs at the same time; they share the cores (default here: {jobs})")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config options of every pretraining, after --: KEY VALUE ...")
    args = parser.parse_args(argv)
    if args.opts[:1] == ["--"]:
        del args.opts[0]
    if args.knn + args.pretext + args.draw > 1:
        parser.error("--knn, --pretext and --draw are different jobs; expected one of them")
    args.methods = args.methods or list(KNN_METHODS if args.knn else THRESHOLDS if args.pretext else _DEFAULT_METHODS)
    if not args.pretext and (clips := [name for name in args.methods if name in VIDEO]):
        parser.error(f"found {' '.join(clips)}, which needs clips; expected it with --pretext, as the other experiments have images")
    args.seeds = args.seeds or ([0] if args.knn or args.pretext else [0, 1, 2])
    if args.epochs is None:
        args.epochs = KNN_EPOCHS if args.knn else PRETRAIN_EPOCHS
    return args


def main(argv: list[str] | None = None) -> int | None:
    """``tools/evidence.py``."""
    args = parse_args(argv)
    with explain_failure("evidence"):
        if args.draw:
            return draw(args.output.resolve())
        trainings = [Training(seed, args.epochs, FINETUNE_ITERATIONS, tuple(args.opts)) for seed in args.seeds]
        if args.knn:
            # Imported here: the processes that draw images import this module too, and need no torch.
            from detcon_d2.quickstart.knn import RegionImages, run_knn

            output = args.output.resolve()
            print(run_knn(output, RegionImages(output / "regions", DATA_SETS["easy"][0]), args.methods, trainings, args.jobs))
        elif args.pretext:
            print(run_pretext(args.output.resolve(), args.methods, args.seeds, args.jobs))
        else:
            print(run_experiment(args.output, args.data_sets, args.methods, trainings, args.jobs))


def draw(output: Path) -> None:
    """Write all built-in images, or those that are missing."""
    with lock_folder(output):
        data_set = DataSet(output / "shapes", DATA_SETS["easy"][0])
        data_set.generate()
        for split in REGION_SPLITS:
            data_set.cut_regions(split)
        for folder in (data_set.folder, *generate_photos(output / "photos").values(), *generate_clips(output / "clips").values()):
            print(folder)


def run_experiment(output: Path, data_sets: Sequence[str], methods: Sequence[str], trainings: Sequence[Training], jobs: int) -> str:
    """Run what is not finished yet, ``jobs`` runs at the same time, and return the table, which is also written after each run.

    The output folder gets a folder per data set, ``evidence.md`` and ``evidence.json``. The names are those in ``DATA_SETS`` and
    ``METHODS``; methods that a data set does not have are left out there. There is a training for each seed.

    Raises ValueError if the folder holds other images, and as :func:`lock_folder` and :func:`run_chains`.
    """
    output, seeds, start, done = output.resolve(), [training.seed for training in trainings], time.perf_counter(), []
    places = {name: DataSet(output / name, DATA_SETS[name][0]) for name in data_sets}
    order = run_order(data_sets, methods, trainings)
    chains = {f"{name}/{method}-{training.seed}": places[name].commands(METHODS[method], training) for name, method, training in order}
    masks = dict.fromkeys((name, METHODS[method].masks) for name, method, _ in order if METHODS[method].masks)

    def report(name: str) -> None:
        done.append(name)
        print(f"\n== {name} finished: {len(done)} of {len(pending)} in {(time.perf_counter() - start) / 60:.0f} minutes", flush=True)
        write_table(output, places, seeds)

    with lock_folder(output):
        for data_set in places.values():
            data_set.generate()
        for name in {name for name, method, _ in order if METHODS[method].crops}:
            places[name].cut_regions("unlabeled")
        run_chains({f"{name}/{generator}": [places[name].masks(generator)] for name, generator in masks})
        pending = {name: chain for name, chain in chains.items() if not is_finished(chain)}
        print(f"{len(chains)} runs, {len(chains) - len(pending)} of them finished before; {jobs} at a time", flush=True)
        run_chains(pending, jobs, report)
    return write_table(output, places, seeds)


def run_order(data_sets: Sequence[str], methods: Sequence[str], trainings: Sequence[Training]) -> list[tuple[str, str, Training]]:
    """(data set, method, training) of every run: the main comparison first, then the upper bound, the hard data set last."""
    found = [(name, method, training) for name in data_sets for training in trainings for method in DATA_SETS[name][1] if method in methods]
    return sorted(found, key=lambda run: (list(DATA_SETS).index(run[0]), METHODS[run[1]].masks == "annotations"))


def read_scores(data_set: DataSet, methods: Sequence[str], seeds: Sequence[int]) -> Scores:
    """The AP of all finished runs. An optional method is left out until one of its runs has finished."""
    scores = {}
    for method in map(METHODS.__getitem__, methods):
        folders = {seed: data_set.run(method, seed).finetune for seed in seeds}
        found = {seed: read_evaluation(folder) for seed, folder in folders.items() if (folder / "results.json").is_file()}
        if found or not method.optional:
            tasks = {"box": "bbox", "mask": "segm"}
            scores[method.name] = {name: {seed: one.ap(task) for seed, one in found.items()} for name, task in tasks.items()}
    return scores


def write_table(output: Path, data_sets: dict[str, DataSet], seeds: Sequence[int]) -> str:
    """Write ``evidence.md`` and ``evidence.json`` from the finished runs; returns the content of ``evidence.md``."""
    scores = {name: read_scores(data_set, DATA_SETS[name][1], seeds) for name, data_set in data_sets.items()}
    lines = []
    for name, found in scores.items():
        heading = f"Material agrees with the category with probability {DATA_SETS[name][0].agreement}:"
        lines += [heading, "", *table_lines(found, "random"), ""]
    write_bytes_atomically(output / "evidence.json", json.dumps(scores, indent=1).encode())
    write_bytes_atomically(output / "evidence.md", "\n".join(lines).encode())
    return "\n".join(lines)


def table_lines(scores: Scores, baseline: str) -> Iterator[str]:
    """A table in Markdown: mean and standard deviation over seeds, the AP of each seed, and the gain over the method ``baseline``, with
    its interval."""
    yield "| initialisation | seeds | box AP | mask AP | box AP of each seed | gain, box | gain, mask |"
    yield "|---|---|---|---|---|---|---|"
    for name, score in scores.items():
        each = ", ".join(f"{value:.1f}" for value in score["box"].values()) or "not run"
        gains = ["" if name == baseline else gain_text(paired_gain(score[task], scores[baseline][task])) for task in score]
        yield f"| {' | '.join([METHODS[name].title, str(len(score['box'])), *map(mean_and_deviation, score.values()), each, *gains])} |"
