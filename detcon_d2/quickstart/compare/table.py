"""The table of the runs, and what must be known before their numbers are compared, in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detcon_d2.checkpoint.run_config import differing_settings
from detcon_d2.quickstart.compare.runs import Part, Run
from detcon_d2.quickstart.report.curves import BUDGET_HEAD, budget_cells
from detcon_d2.quickstart.results import Points

_METRICS = {"box AP": ("bbox", "AP"), "mask AP": ("segm", "AP"), "mIoU": ("sem_seg", "mIoU")}
_EQUAL = 1.05
"""Budgets whose ratio is below this are called equal."""


def loss_of(series: Mapping[str, Points]) -> Points:
    """The loss of a run without that of the online probe: its only ``loss_*``, or the total of several; empty where there is none."""
    names = [name for name in series if name.startswith("loss_") and name != "loss_probe"]
    return series.get(names[0] if len(names) == 1 else "total_loss", [])


def method_of(run: Run) -> str:
    """The name of the pretraining method, or what the run started from instead."""
    if run.origin:
        return str(run.origin.get("method", "unknown"))
    results = next((part.results for part in run.parts.values() if part.results), {})
    weights = str(run.parts["fine-tuning"].metadata.get("weights", "")) if "fine-tuning" in run.parts else str(results.get("weights", ""))
    return "random initialisation" if weights in ("", "random") else weights


def accuracies(run: Run) -> dict[str, float]:
    """Top-1 accuracies in percent by the name of the classifier: "kNN" (the first k) and "probe (PROTOCOL)"."""
    results = run.parts["evaluation"].results if "evaluation" in run.parts else {}
    named = [("kNN", row) for row in results.get("knn", [])[:1]]
    named += [(f"probe ({row['protocol']['name']})", row) for row in results.get("probe", [])]
    return {name: row["top1"] for name, row in named}


def precisions(run: Run) -> dict[str, float]:
    """Metrics of the fine-tuned network in percent, by their names in the table."""
    results = run.parts["fine-tuning"].results if "fine-tuning" in run.parts else {}
    (tasks,) = results.get("results", {"": {}}).values()
    found = {name: tasks.get(task, {}).get(metric) for name, (task, metric) in _METRICS.items()}
    return {name: value for name, value in found.items() if value is not None}


def table_of(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Head and rows, all plain text: method, average precision and accuracies, progress, budget, last loss. A dash: unknown."""
    scores = [accuracies(run) | precisions(run) for run in runs]
    columns = sorted(dict.fromkeys(name for found in scores for name in found), key=lambda name: name not in _METRICS)
    head = ["run", "method", *columns, "iterations", "epochs", *BUDGET_HEAD, "loss", "online probe"]
    rows = []
    for run, found in zip(runs, scores, strict=True):
        part = run.parts.get("pretraining")
        series = part.series if part else {}
        progress = part.progress() if part else f"{run.origin['iterations']:,}" if "iterations" in run.origin else "–"
        epochs = f"{run.origin['epochs']:.1f}" if "epochs" in run.origin else "–"
        last = [points[-1][1] if points else None for points in (loss_of(series), series.get("probe/accuracy", []))]
        loss, probe = ("–" if value is None else text.format(value) for text, value in zip(("{:.4g}", "{:.1%}"), last, strict=True))
        values = [f"{found[name]:.1f}" if name in found else "–" for name in columns]
        rows.append([run.name, method_of(run), *values, progress, epochs, *budget_cells(run.origin), loss, probe])
    return head, rows


def settings_of(runs: Sequence[Run], kind: str) -> dict[str, list[Any]]:
    """The config keys in which the runs' parts of a kind differ, each with its values in the order of the runs that have such a part.

    Places, devices and the like are left out.
    """
    return differing_settings([part.config for part in parts_of(runs, kind).values() if part.config] or ["{}"])


def parts_of(runs: Sequence[Run], kind: str) -> dict[str, Part]:
    """The parts of a kind by the name of their run."""
    return {run.name: run.parts[kind] for run in runs if kind in run.parts}


def notes_of(runs: Sequence[Run]) -> list[str]:
    """Sentences: what is not finished, and where runs differ in what has to be equal for a fair comparison."""
    notes = [
        f"{run.name}: {kind} is not finished: {part.progress()}." for run in runs for kind, part in run.parts.items() if not part.finished
    ]
    notes += [
        f"{run.name}: its fine-tuning or evaluation did not start from the last checkpoint of the pretraining next to it."
        for run in runs
        if not run.is_consistent
    ]
    origins = {run.name: run.origin for run in runs if run.origin}
    notes += _differences("Pretraining saw different images; methods are compared on the same.", origins, _images)
    notes += _budget_notes(origins)
    devices = {name: origin["device"] for name, origin in origins.items() if "device" in origin}
    notes += _differences("Seconds are those of different devices, and say nothing about the methods.", devices, str)
    if len({origin.get("method") for origin in origins.values()}) > 1:
        notes.append("Losses of different methods are different functions: compare their course, not their values.")
    detectors, frozen = parts_of(runs, "fine-tuning"), parts_of(runs, "evaluation")
    across = "Compare within one protocol, never across."
    notes += _differences(f"The detection protocols differ. {across}", detectors, _detection_protocol)
    notes += _differences(f"The frozen encoders were evaluated by different protocols. {across}", frozen, _frozen_protocol)
    return notes


def _differences(sentence: str, values: Mapping[str, Any], describe: Callable[[Any], str]) -> list[str]:
    """The sentence and who has which value, where they differ."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(describe(value), []).append(name)
    listed = "; ".join(f"{', '.join(names)}: {text}" for text, names in groups.items())
    return [f"{sentence} {listed}."] if len(groups) > 1 else []


def _images(origin: Mapping[str, Any]) -> str:
    digest = str(origin.get("dataset_digest", "unknown"))[:8]
    return f"{', '.join(origin.get('datasets', ['unknown']))} ({origin.get('dataset_size', '?')} images, digest {digest})"


def _detection_protocol(part: Part) -> str:
    found, data = part.metadata, ", ".join(part.results.get("results", {}))
    size, share = found.get("dataset_size", "?"), found.get("label_fraction", 1.0)
    length = f"{part.results.get('iteration', found.get('max_iter', '?'))} iterations of {found.get('ims_per_batch', '?')} images"
    digest = str(found.get("dataset_digest", "unknown"))[:8]
    protocol = part.results.get("protocol") or found.get("protocol") or "no name"
    return f"protocol {protocol}, {length}, {size} training images (fraction {share:g}, digest {digest}), tested on {data or 'nothing yet'}"


def _frozen_protocol(part: Part) -> str:
    found = part.results
    names = ", ".join(row["protocol"]["name"] for row in found["probe"])
    train, test = (f"{found[split].get('images', '?')} images of {found[split].get('spec', '?')}" for split in ("train", "test"))
    return f"probe {names}, size {found.get('input', {}).get('size', '?')}, trained on {train}, tested on {test}"


def _budget_notes(origins: Mapping[str, Mapping[str, Any]]) -> list[str]:
    unknown = [name for name, origin in origins.items() if "forwards_trained" not in origin]
    notes = (
        [f"No budget is known of {', '.join(unknown)}: an earlier version of detcon_d2 or another package trained it."] if unknown else []
    )
    known = {name: origin for name, origin in origins.items() if name not in unknown}
    totals = {
        "images seen": {name: origin["images_seen"] for name, origin in known.items()},
        "forward passes": {name: origin["forwards_trained"] + origin["forwards_no_grad"] for name, origin in known.items()},
    }
    for what, found in totals.items():
        if len(found) < 2:
            continue
        low, high = min(found, key=found.get), max(found, key=found.get)
        ratio = found[high] / found[low]
        if ratio < _EQUAL:
            notes.append(f"Budgets are equal in {what}: {found[low]:,.0f} to {found[high]:,.0f}.")
        else:
            ends = f"from {found[low]:,.0f} ({low}) to {found[high]:,.0f} ({high})"
            notes.append(f"Budgets are not equal in {what}: {ends}, a factor of {ratio:.2f}.")
    return notes
