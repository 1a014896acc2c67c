"""The HTML page of a comparison: curves over images, seconds and iterations, budgets, and the settings that differ."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from detcon_d2.io.charts import three_digits
from detcon_d2.quickstart.compare.runs import Part, Run
from detcon_d2.quickstart.compare.table import accuracies, loss_of, method_of, notes_of, parts_of, precisions, settings_of, table_of
from detcon_d2.quickstart.report.curves import Scalars, curve_cards
from detcon_d2.quickstart.report.page import bars, card, page, paragraph, switch, table
from detcon_d2.quickstart.results import Points

_PRETRAINING = ("loss", "learning/.*", "knn/.*", "probe/.*", "loss_.*")
_FINETUNING = ("(bbox|segm)/AP", "sem_seg/mIoU", "total_loss")
_BUDGET = (
    "Forward passes are those of the encoder, in units of one crop of 224 x 224 (a crop of 96 is 0.18): trained + without gradient (the "
    "EMA copy, or an encoder that learns regions). Seconds are those of the training iterations, without checkpoints and evaluation. "
    "Parameters are those that are trained, encoder + heads."
)


def document(runs: Sequence[Run]) -> str:
    """The page; runs have the colours of their places in the list."""
    head, rows = table_of(runs)
    notes = "".join(f"<li>{escape(note)}</li>" for note in notes_of(runs))
    intro = table([escape(name) for name in head], [list(map(escape, row)) for row in rows]) + paragraph(_BUDGET, soft=True)
    sections = [
        ("Before you compare", f"<ul>{notes}</ul>" if notes else paragraph("Nothing that has to be equal differs.")),
        ("Budgets", _budgets(runs)),
        ("Results", _results(runs)),
        ("Pretraining", _curves(runs, "pretraining", _PRETRAINING)),
        ("Fine-tuning", _curves(runs, "fine-tuning", _FINETUNING)),
        ("Settings that differ", _settings(runs, "pretraining") + _settings(runs, "fine-tuning")),
        ("Where the runs are", _places(runs)),
    ]
    return page("Runs compared", intro, [(heading, content) for heading, content in sections if content])


def _cards(runs: Sequence[Run], values: Mapping[str, Callable[[Run], float | None]], text: Callable[[float], str]) -> str:
    """One card of bars for each named value; runs without it have no bar, and a value of no run has no card."""
    cards = []
    for name, get in values.items():
        found = [get(run) for run in runs]
        if any(value is not None for value in found):
            rows = [(run.name, index, math.nan if value is None else value) for index, (run, value) in enumerate(zip(runs, found))]
            cards.append(card(name, bars(rows, lambda value: "–" if math.isnan(value) else text(value))))
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _budgets(runs: Sequence[Run]) -> str:
    def sum_of(*keys: str) -> Callable[[Run], float | None]:
        return lambda run: sum(run.origin[key] for key in keys) if all(key in run.origin for key in keys) else None

    entries = {"Images seen": sum_of("images_seen"), "Forward passes, trained": sum_of("forwards_trained")}
    entries |= {"Forward passes, without gradient": sum_of("forwards_no_grad"), "Seconds": sum_of("seconds")}
    return _cards(runs, entries | {"Trained parameters": sum_of("parameters_encoder", "parameters_heads")}, lambda value: f"{value:,.0f}")


def _results(runs: Sequence[Run]) -> str:
    names = dict.fromkeys(name for run in runs for name in precisions(run) | accuracies(run))
    entries = {f"{name}, %": lambda run, name=name: (precisions(run) | accuracies(run)).get(name) for name in names}
    return _cards(runs, entries, lambda value: f"{value:.1f}")


def _curves(runs: Sequence[Run], kind: str, patterns: Sequence[str]) -> str:
    """The charts over images, seconds and iterations."""
    parts = {index: run.parts[kind] for index, run in enumerate(runs) if kind in run.parts and run.parts[kind].series}
    panels = []
    for name, of_points in (("images seen", _over_images), ("seconds", _over_seconds), ("iterations", lambda part: part.series)):
        found = {index: series for index, part in parts.items() if (series := of_points(part))}
        largest = max((points[-1][0] for series in found.values() for points in series.values()), default=0)
        power = 3 * (int(math.log10(largest)) // 3) if largest >= 10_000 else 0
        unit = {0: name, 3: f"thousand {name}", 6: f"million {name}"}.get(power, f"10^{power} {name}")
        scaled = [Scalars(runs[index].name, index, _scaled(_with_loss(series, kind), 10**power)) for index, series in found.items()]
        panels += [(f"over {unit}", curve_cards(scaled, patterns))] if found else []
    return switch(f"{kind}-", panels) if panels else ""


def _over_images(part: Part) -> dict[str, Points]:
    batch = part.metadata.get("ims_per_batch")
    return {name: [((x + 1) * batch, y) for x, y in points] for name, points in part.series.items()} if batch else {}


def _over_seconds(part: Part) -> dict[str, Points]:
    """Only iterations whose seconds were written: evaluations come one iteration after the last step."""
    seconds = dict(part.series.get("seconds", []))
    at = {x: seconds.get(x, seconds.get(x - 1)) for points in part.series.values() for x, _ in points}
    series = {name: [(at[x], y) for x, y in points if at[x] is not None] for name, points in part.series.items()}
    return {name: points for name, points in series.items() if points} if seconds else {}


def _with_loss(series: Mapping[str, Points], kind: str) -> dict[str, Points]:
    """The loss under one name for all methods; the parts of a loss keep theirs."""
    found, loss = dict(series), loss_of(series)
    if kind == "pretraining" and loss:
        found = {name: points for name, points in found.items() if points != loss} | {"loss": loss}
    return found


def _scaled(series: Mapping[str, Points], unit: int) -> dict[str, Points]:
    return {name: [(x / unit, y) for x, y in points] for name, points in series.items()}


def _settings(runs: Sequence[Run], kind: str) -> str:
    names = [name for name, part in parts_of(runs, kind).items() if part.config]
    found = settings_of(runs, kind)
    if not found:
        return ""
    rows = [[escape(key), *(escape(_plain(value)) for value in values)] for key, values in found.items()]
    return f"<h3>{kind.capitalize()}</h3>{table(['', *map(escape, names)], rows)}"


def _plain(value: Any) -> str:
    return "–" if value is None else three_digits(value) if isinstance(value, float) else str(value)


def _places(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        lines = [f"{kind}: {part.folder}" for kind, part in run.parts.items()]
        masks = [f"regions: {run.origin['mask_parameters']}"] if "mask_parameters" in run.origin else []
        rows.append([run.name, "; ".join([method_of(run), *masks, *lines])])
    return table([], [list(map(escape, row)) for row in rows], kind="facts")
