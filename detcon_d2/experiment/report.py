"""The table of an experiment, in Markdown and as a page with curves."""

import functools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from detcon_d2.checkpoint import read_metadata
from detcon_d2.experiment.plan import Words
from detcon_d2.experiment.runs import NO_BUDGET, Experiment, Setting
from detcon_d2.io.charts import Line
from detcon_d2.quickstart.gains import LEVEL, gain_text, mean_and_deviation, paired_gain
from detcon_d2.quickstart.report.page import bars, card, curves, legend, page, paragraph, table
from detcon_d2.quickstart.results import Evaluation

TASKS = {"bbox": "box", "segm": "mask"}


class Row(NamedTuple):
    """A setting with its finished runs by seed, the images that its pretraining sees, the mean seconds that it took (NaN: none or unknown),
    kNN top-1 by seed, what the sweep chose, and the box AP of each of its candidates on the validation images (none: no sweep)."""

    setting: Setting
    runs: Mapping[int, Evaluation]
    images: int
    seconds: float
    knn: Mapping[int, float]
    chosen: Words
    validation: list[float]

    def choice(self) -> str:
        """What was chosen, and of which values."""
        return f"{' '.join(self.chosen)} ({', '.join(f'{value:.1f}' for value in self.validation)})"

    def scores(self, task: str, metric: str = "AP") -> dict[int, float]:
        """A metric in percent by seed."""
        return {seed: run.ap(task, metric) for seed, run in self.runs.items()}


def read_rows(experiment: Experiment) -> list[Row]:
    """All settings of which a run has finished."""
    rows = []
    for setting in experiment.settings():
        found = ((seed, experiment.evaluation(setting, seed)) for seed in experiment.plan.seeds)
        if runs := {seed: one for seed, one in found if one}:
            seconds = [
                _metadata(path).get("seconds", float("nan"))
                for seed in runs
                if setting.method.config and Path(path := experiment.backbone(setting, seed)).is_file()
            ]
            knn = {seed: top1 for seed in runs if (top1 := experiment.knn_top1(setting, seed)) is not None}
            mean = statistics.fmean(seconds) if seconds else float("nan")
            rows.append(Row(setting, runs, experiment.images_seen(setting), mean, knn, *experiment.choice(setting)))
    return rows


def baseline_of(row: Row, name: str, rows: Sequence[Row]) -> Row | None:
    """The row of another method with the same labels, and the same budget if both are pretrained; None if it has not finished or is this
    row."""
    for other in rows:
        a, b = row.setting, other.setting
        same_length = a.budget == b.budget or NO_BUDGET in (a.budget, b.budget)
        if other is not row and b.method.name == name and a.fraction == b.fraction and same_length:
            return other
    return None


def tasks_of(rows: Sequence[Row]) -> list[str]:
    """Those of :data:`TASKS` that a detector was evaluated for."""
    return [task for task in TASKS if any(task in run.metrics for row in rows for run in row.runs.values())]


def table_of(rows: Sequence[Row], baselines: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Head and rows as plain text: mean and standard deviation over seeds, and the gain over each baseline."""
    tasks = tasks_of(rows)
    head = ["method", "images seen", "seconds", "labels", "seeds", *(f"{TASKS[task]} AP" for task in tasks), "box AP50", "box AP75"]
    has_knn = any(row.knn for row in rows)
    head += ["kNN top-1"] if has_knn else []
    head += [f"{TASKS[task]} AP over {name}" for name in baselines for task in tasks]
    lines = []
    for row in rows:
        setting = row.setting
        seen, seconds = f"{row.images:,}" if row.images else "", "" if row.seconds != row.seconds else f"{row.seconds:,.0f}"
        cells = [setting.method.name, seen, seconds, f"{setting.fraction:.0%}", str(len(row.runs))]
        cells += [mean_and_deviation(row.scores(task)) for task in tasks]
        cells += [mean_and_deviation(row.scores("bbox", metric)) for metric in ("AP50", "AP75")]
        cells += [mean_and_deviation(row.knn)] if has_knn else []
        for name in baselines:
            other = baseline_of(row, name, rows)
            cells += ["" if other is None else gain_text(paired_gain(row.scores(task), other.scores(task))) for task in tasks]
        lines.append(cells)
    return head, lines


def markdown(rows: Sequence[Row], baselines: Sequence[str]) -> str:
    """The table, and what the sweep chose for each row."""
    head, lines = table_of(rows, baselines)
    text = ["", *(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)), "", note()]
    if any(row.validation for row in rows):
        text += ["", "Chosen by box AP on the validation images (of each candidate, in the order of the plan):", ""]
        text += [f"- {row.setting.title()}: {row.choice()}" for row in rows]
    return "\n".join(text) + "\n"


def scores_json(rows: Sequence[Row], baselines: Sequence[str]) -> str:
    """Every finished run with all its metrics, what its sweep chose, and whether its box AP is above each baseline: yes, no or open."""
    content = []
    for row in rows:
        setting, gains = row.setting, {}
        for name in baselines:
            other = baseline_of(row, name, rows)
            gain = None if other is None else paired_gain(row.scores("bbox"), other.scores("bbox"))
            gains |= {} if gain is None else {name: gain.verdict()}
        content.append(
            {
                **{"method": setting.method.name, "images_seen": row.images, "label_fraction": setting.fraction, "knn_top1": row.knn},
                **{"chosen": row.chosen, "validation_box_ap": row.validation, "box_ap_above": gains},
                "seeds": {seed: one.metrics for seed, one in row.runs.items()},
            }
        )
    return json.dumps(content, indent=1)


def note() -> str:
    """How to read the table."""
    return (
        f"Mean ± standard deviation over seeds, AP in percent. Gains are paired by seed; in brackets the {LEVEL:.0%} bootstrap interval of "
        "their mean, which with three seeds is the range of the three. A gain whose interval contains 0 is open."
    )


def document(experiment: Experiment, rows: Sequence[Row]) -> str:
    """The page: table, AP of each method, and AP over images seen, over seconds and over the fraction of the labels."""
    plan = experiment.plan
    head, lines = table_of(rows, plan.baselines)
    most_labels, longest = max(plan.fractions), max(plan.budgets, default=NO_BUDGET)
    full = [row for row in rows if row.setting.fraction == most_labels]
    long = [row for row in rows if row.setting.budget in (NO_BUDGET, longest)]
    sections = [
        ("AP of each method", _bars(rows)),
        ("AP over images seen", _charts(experiment, full, lambda row: row.images / 1000, "thousand images seen")),
        ("AP over seconds of pretraining", _charts(experiment, full, lambda row: row.seconds if row.images else 0.0, "seconds")),
        ("AP over labels", _charts(experiment, long, lambda row: 100 * row.setting.fraction, "percent of the labelled images")),
        ("What the sweep chose", _chosen(rows)),
        ("The plan", _facts(experiment)),
    ]
    # The interval of a gain is a line of its own, so that the table fits the width of the page.
    cells = [[escape(cell).replace(" [", "<br/>[") for cell in line] for line in lines]
    intro = table(list(map(escape, head)), cells) + paragraph(escape(note()), soft=True)
    return page("Experiment", intro, [(heading, content) for heading, content in sections if content])


def _bars(rows: Sequence[Row]) -> str:
    """A chart for each task: the mean over seeds."""
    names = [row.setting.method.name for row in rows]
    labels = names if len(set(names)) == len(names) else [row.setting.title() for row in rows]
    cards = []
    for task in tasks_of(rows):
        lines = [(label, index, statistics.fmean(row.scores(task).values())) for index, (label, row) in enumerate(zip(labels, rows))]
        cards.append(card(f"{TASKS[task].capitalize()} AP", bars(lines)))
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _charts(experiment: Experiment, rows: Sequence[Row], place: Callable[[Row], float], unit: str) -> str:
    """A chart for each task, with a line for each method; nothing where no method has two places. Methods that are not pretrained here
    are a level line over the places of the others."""
    names = list(experiment.plan.methods)
    places = sorted({x for row in rows if (x := place(row)) == x})
    cards = []
    for task, text in TASKS.items():
        lines = []
        for index, name in enumerate(names):
            found = [row for row in rows if row.setting.method.name == name and task in next(iter(row.runs.values())).metrics]
            points = sorted((place(row), statistics.fmean(row.scores(task).values())) for row in found if place(row) == place(row))
            if len(points) == 1 and points[0][0] == 0 and len(places) > 1:
                points = [(places[0], points[0][1]), (places[-1], points[0][1])]
            lines += [Line(name, points, index)] if points else []
        if any(
            len(line.points) > 1 and len({x for x, _ in line.points}) > 1 and experiment.plan.methods[line.label].config for line in lines
        ):
            cards.append(card(f"{text.capitalize()} AP over {unit}", curves(lines, f"{text} AP")))
    return f'{legend([(name, index) for index, name in enumerate(names)])}<div class="cards charts">{"".join(cards)}</div>' if cards else ""


def _chosen(rows: Sequence[Row]) -> str:
    if not any(row.validation for row in rows):
        return ""
    about = "By box AP on the validation images; in brackets the box AP of each candidate, in the order of the plan."
    return paragraph(about) + table([], [[escape(row.setting.title()), escape(row.choice())] for row in rows], kind="facts")


def _facts(experiment: Experiment) -> str:
    plan = experiment.plan
    facts = {"training set": plan.train, "test set": plan.test, "detector": plan.detector, "seeds": ", ".join(map(str, plan.seeds))}
    facts |= {
        name: " ".join(filter(None, (method.config or method.weights or "random initialisation", method.regions, *method.options)))
        for name, method in plan.methods.items()
    }
    return table([], [[escape(name), escape(str(value))] for name, value in facts.items()], kind="facts")


@functools.cache
def _metadata(path: str) -> dict[str, Any]:
    return read_metadata(path) or {}
