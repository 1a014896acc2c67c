"""``report.html`` of the quickstart: what pretraining learned, the AP after fine-tuning, and how both were obtained.

One file that needs no network: pictures are embedded. ``report.html`` in this folder holds its text.
"""

import argparse
import json
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from detcon_d2 import d2
from detcon_d2.checkpoint import read_metadata
from detcon_d2.evaluation.encoders import encode_images, load_encoder
from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.io.charts import Line
from detcon_d2.io.images import read_image
from detcon_d2.quickstart.quickstart import quickstart_runs
from detcon_d2.quickstart.report.inputs import PREDICTIONS, LabelledImages, check_inputs
from detcon_d2.quickstart.report.page import bars, card, curves, legend, number, page, photo, signed, table
from detcon_d2.quickstart.report.pictures import choose_pairs, draw_detections, draw_similarity, mean_separations
from detcon_d2.quickstart.results import read_evaluation, read_predictions, read_series
from detcon_d2.quickstart.runs import Run

# Of the validation images, the first ones are shown with detections, and regions are compared among the first ones.
_NUM_DETECTIONS, _NUM_ENCODED = 8, 32
# Images are enlarged by this factor for the similarity maps.
_ZOOM = 3.0
_TASKS = {"bbox": "box", "segm": "mask"}
_METRICS = [(task, metric) for task in _TASKS for metric in ("AP", "AP50", "AP75")]
# Scalar of training -> title, range of the axis, meaning. Losses and learning/* that are not listed here are shown by their names.
_MEANINGS = {
    "learning/retrieval_top1": ("Retrieval, top-1", None, "Share of regions whose nearest target in the other view is the same region."),
    "learning/projection_std": ("Spread of projections", (0.0, 1.0), "Near 1: spread over all directions. Towards 0: collapse."),
    "learning/positive_fraction": ("Positives", (0.0, 1.0), "Share of sampled regions that are also sampled in the other view."),
    "learning/regions_per_view": ("Regions per view", None, "Different regions with a cell: those that are sampled."),
    "learning/regions_in_pixels": ("Regions per view, by pixels", None, "Different regions before each cell takes its most frequent one."),
    "learning/lost_regions": ("Lost regions", (0.0, 1.0), "Share of the regions in a view that lose all their cells."),
    "learning/constant_views": ("Nearly constant views", (0.0, 1.0), "Share of the views without contrast, of which nothing is learned."),
    "bbox/AP": ("Box AP on the validation images", None, ""),
    "segm/AP": ("Mask AP on the validation images", None, ""),
}


def main(argv: list[str] | None = None) -> int | None:
    """``tools/report.py``."""
    parser = argparse.ArgumentParser(description="Write the report of a quickstart's folder: one HTML file that needs no network.")
    parser.add_argument("folder", type=Path, help="output folder of make quickstart")
    parser.add_argument("--output", type=Path, help="html file to write (default: report.html in the folder)")
    args = parser.parse_args(argv)
    output = args.output or args.folder / "report.html"
    try:
        write_report(args.folder, quickstart_runs(args.folder), output)
    except (ValueError, FileNotFoundError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    print(f"{output}: open it in a browser")


def write_report(folder: Path, runs: Sequence[Run], output: Path) -> None:
    """Write the report of a quickstart's folder to an html file, which is replaced atomically.

    The first run is the baseline, which is not pretrained; the others are pretrained. Raises ValueError if a file is missing or damaged;
    the message names the file and the tool that writes it.
    """
    check_inputs(folder, runs)
    parts = _Parts(folder, runs)
    text = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).substitute(
        parts.detections() | parts.similarity() | parts.commands(),
        num_train=len(LabelledImages(folder / "data", "train")),
        num_val=len(parts.images),
        gains=parts.gains(),
        agreement=f"{parts.images.agreement:g}",
        views=photo(read_image(folder / "views.png"), "images, regions and views"),
        pretraining=parts.curves("pretrain", ("loss_.*", "learning/.*")),
        fine_tuning=parts.curves("finetune", ("total_loss", "(bbox|segm)/AP")),
        precision=parts.precision(),
        by_category=parts.by_category(),
        facts=parts.facts(),
    )
    intro, *sections = text.replace(escape(str(folder.resolve())), "$OUTPUT").split("<h2>")
    document = page("Pretraining, measured by detection", intro, [section.split("</h2>") for section in sections])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(output, document.encode("utf-8"))


class _Parts:
    """The computed parts of the report, as HTML."""

    def __init__(self, folder: Path, runs: Sequence[Run]):
        self.folder, self.runs, self.pretrained = folder, runs, runs[1:]
        self.images = LabelledImages(folder / "data", "val")
        self.evaluations = [read_evaluation(run.finetune) for run in runs]
        self.titles = [run.method.title for run in runs]

    def gain(self, index: int, task: str, metric: str = "AP") -> str:
        """AP of a pretrained run minus AP of the baseline."""
        return signed(self.evaluations[index].ap(task, metric) - self.evaluations[0].ap(task, metric))

    def gains(self) -> str:
        cards, over = [], f'<div class="soft">{self.titles[1]} compared with {self.titles[0]}</div>'
        for task, name in _TASKS.items():
            chart = bars([(title, index, found.ap(task)) for index, (title, found) in enumerate(zip(self.titles, self.evaluations))])
            cards.append(card(f"{name.capitalize()} AP", f'<div class="big">{self.gain(1, task)} AP</div>{over}{chart}'))
        return "".join(cards)

    def curves(self, kind: str, patterns: Sequence[str]) -> str:
        """Scalars of "pretrain" or "finetune" over the iterations, one chart for each name that one of the regular expressions matches."""
        folders = {index: folder for index, run in enumerate(self.runs) if (folder := getattr(run, kind)) is not None}
        series = {index: read_series(folder / "metrics.json") for index, folder in folders.items()}
        names = dict.fromkeys(name for pattern in patterns for found in series.values() for name in found if re.fullmatch(pattern, name))
        cards = []
        for name in names:
            lines = [Line(self.titles[index], found[name], index) for index, found in series.items() if name in found]
            title, y_range, meaning = _MEANINGS.get(name, (name, None, ""))
            # The tables contain a single evaluation already.
            if max(len(line.points) for line in lines) > 1:
                cards.append(card(title, f'{curves(lines, title, y_range)}<div class="soft">{meaning}</div>'))
        return f'{legend([(self.titles[index], index) for index in series])}<div class="cards charts">{"".join(cards)}</div>'

    def precision(self) -> str:
        head = ["", *(f"{_TASKS[task]} {metric}" for task, metric in _METRICS)]
        rows = [[title, *(number(found.ap(*metric)) for metric in _METRICS)] for title, found in zip(self.titles, self.evaluations)]
        rows += [[f"gain of {self.titles[i]}", *(self.gain(i, *metric) for metric in _METRICS)] for i in range(1, len(self.runs))]
        return table(head, rows)

    def by_category(self) -> str:
        head = ["", "objects", *(f"{name}: {title}" for name in _TASKS.values() for title in self.titles)]
        rows = []
        for category, name in self.images.categories.items():
            values = [number(found.ap(task, f"AP-{name}")) for task in _TASKS for found in self.evaluations]
            rows.append([name, str(self.images.counts[category]), *values])
        return table(head, rows)

    def detections(self) -> dict[str, object]:
        found, count = {}, min(_NUM_DETECTIONS, len(self.images))
        for title, run in zip(self.titles, self.runs):
            predictions = read_predictions(run.finetune / PREDICTIONS)
            found[title] = [self.images.detections(index, predictions) for index in range(count)]
        return {"num_detections": count, "detections": photo(draw_detections(self.images, found), "objects and detections")}

    def similarity(self) -> dict[str, object]:
        photos = [self.images.image(index) for index in range(min(_NUM_ENCODED, len(self.images)))]
        models = {"untrained": load_encoder(self.pretrained[0].pretrain, trained=False)}
        models |= {run.method.title: load_encoder(run.pretrain) for run in self.pretrained}
        encoders = {title: encode_images(model, photos, _ZOOM) for title, model in models.items()}
        pairs = choose_pairs(self.images, len(photos))
        rows = [[title, *(f"{value:.3f}" for value in mean_separations(pairs, maps))] for title, maps in encoders.items()]
        shown = list({pair.category: pair for pair in reversed(pairs)}.values())[::-1]
        sheet = photo(draw_similarity(self.images, shown, encoders), "similarity maps") if shown else ""
        scores = table(["", "the region in its own image", "its category in the other image"], rows)
        cells = " × ".join(map(str, encoders["untrained"][0].shape[1:]))
        numbers = {"num_pairs": len(pairs), "num_encoded": len(photos), "cells": cells, "zoom": f"{_ZOOM:g}"}
        return numbers | {"feature": escape(models["untrained"].in_feature), "separations": scores, "similarity": sheet}

    def facts(self) -> str:
        backends = ", ".join(sorted({found.backend for found in self.evaluations}))
        system = f"{d2.describe_backend().split(' (')[0]}, Python {platform.python_version()}, {platform.machine()}"
        rows = [("Detectron2", backends), ("report by", system)]
        for run in self.pretrained:
            metadata = read_metadata(run.pretrain / "model_final.pth") or {}
            facts = [f"{name.replace('_', ' ')} {_plain(value)}" for name, value in metadata.items()]
            rows.append((run.method.title, "; ".join(facts + _duration(run.pretrain))))
        for run, found in zip(self.runs, self.evaluations):
            facts = [f"{found.iteration} iterations", *_duration(run.finetune), f"evaluated on {found.data_set}"]
            rows.append((f"fine-tuning, {run.method.title}", "; ".join(facts)))
        return table([], [list(map(escape, row)) for row in rows], kind="facts")

    def commands(self) -> dict[str, str]:
        """The commands that ran, in the order in which they finished, from their records."""
        folders = [self.folder / "stages", *(run.folder / "stages" for run in self.runs)]
        paths = [path for folder in folders for path in folder.glob("*.json") if path.stem != "report"]
        records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)]
        lines = [f"# {one['title']}: {one['seconds']:.0f} s\npython {shlex.join(one['command'])}" for one in records]
        return {"commands": escape("\n".join(lines)), "minutes": f"{sum(one['seconds'] for one in records) / 60:.1f}"}


def _plain(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _duration(run: Path) -> list[str]:
    """Seconds per iteration: the median of those logged, so that pauses do not count."""
    seconds = [value for _, value in read_series(run / "metrics.json").get("time", [])]
    return [f"{statistics.median(seconds):.2f} s per iteration"] if seconds else []
