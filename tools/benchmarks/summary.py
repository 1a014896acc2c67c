#!/usr/bin/env python
"""One page, with ratios and charts, of the results that the other tools of this folder wrote as JSON."""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from timing import OURS, median_ratio

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.io.charts import Line, three_digits
from detcon_d2.quickstart.report.page import bars, card, curves, legend, page, paragraph, table

FILES = ("loss", "loss_growth", "pipeline", "masks", "step", "methods", "scaling")
"""Names, without ``.json``, of the files that the page shows."""
_EPILOG = f"""
Reads {", ".join(f"{name}.json" for name in FILES)}. Missing files are left out and named on the page.

examples
  python tools/benchmarks/summary.py output/bench                                # output/bench/summary.html
  python tools/benchmarks/summary.py run1 run2 run3 --output three_runs.html    # three runs of make bench BENCH=run1, run2, run3
"""

Section = tuple[str, str]
"""A plain heading, and HTML."""
Run = dict[str, dict]
"""The results of one run by their name in :data:`FILES`; a benchmark that did not run is absent."""


class Comparison(NamedTuple):
    """Two results of one run.

    Attributes:
        name: what was measured.
        unit: unit of ``here`` and ``value``.
        here: our result.
        value: the result that it is compared with.
        other: what ``value`` belongs to.
        ratio: how many times better ours is.
    """

    name: str
    unit: str
    here: float
    value: float
    other: str
    ratio: float


def summary_page(runs: Sequence[Run]) -> str:
    """HTML of one run or more on one machine: ratios of every run, charts of the first.

    Args:
        runs: at least one, each with at least one result.
    """
    first = runs[0]
    missing = [name for name in FILES if name not in first]
    note = paragraph(f"Not measured: {', '.join(missing)}.", soft=True) if missing else ""
    ratios = _table([[row for name in FILES for row in _compare(run, name)] for run in runs])
    sections = [("Compared with others", ratios), *_bar_sections(first)]
    sections += loss_growth_sections(first.get("loss_growth", {}).get("growth", {}))
    if charts := list(_growth_charts(first)):
        sections.append(("Growth of the rest", _grid(charts)))
    return benchmark_page("Speed and memory", next(iter(first.values()))["machine"], sections, note)


def _table(runs: list[list[Comparison]]) -> str:
    rows = []
    for shown in runs[0]:
        ratios = [found.ratio for run in runs for found in run if (found.name, found.other) == (shown.name, shown.other)]
        values = [f"{three_digits(value)} {shown.unit}" for value in (shown.here, shown.value)]
        rows.append([escape(shown.name), *values, escape(shown.other), f"<b>{', '.join(map(three_digits, ratios))}</b>"])
    text = "Ratio: how many times as fast it is here, or how many times less memory it takes."
    several = f" Values are those of the first of {len(runs)} runs, ratios those of each run." if len(runs) > 1 else ""
    return paragraph(text + several, soft=True) + table(["", "here", "other", "which is", "ratio"], rows)


def _bar_sections(run: Run) -> Iterator[Section]:
    for heading, name in (("Loss", "loss"), ("Input pipeline", "pipeline"), ("Masks", "masks"), ("Step", "step"), ("Methods", "methods")):
        charts: dict[str, dict[str, float]] = {}
        for row in _compare(run, name):
            charts.setdefault(f"{row.name}, {row.unit}", {OURS: row.here})[row.other] = row.value
        if name == "pipeline" and charts:
            charts = {"two views from JPEG, images/s": {row["name"]: row["images_per_second"] for row in run[name]["pipelines"]}}
        if charts:
            yield heading, _grid(card(title, _bars(values)) for title, values in charts.items())


def _growth_charts(run: Run) -> Iterator[str]:
    if workers := run.get("pipeline", {}).get("workers"):
        points = {mode: [(int(count), speed) for count, speed in found.items()] for mode, found in workers.items()}
        yield _line_card("loader, images/s over workers", [Line(mode, points[mode], color) for color, mode in enumerate(points)])
    if scaling := run.get("scaling"):
        rates = _step_rates(scaling)
        ideal = [(count, rates[0][1] * count / rates[0][0]) for count, _ in rates]
        yield _line_card("step, images/s over processes", [Line("measured", rates, 0), Line("linear", ideal, 5)])


def _bars(values: dict[str, float]) -> str:
    """Bars in which ours have the first colour."""
    return bars([(name, 0 if name.startswith(OURS) else 5, value) for name, value in values.items()], three_digits)


def _compare(run: Run, name: str) -> list[Comparison]:
    """The comparisons of one benchmark; none if it did not run."""
    compare = {"loss": _loss, "pipeline": _pipeline, "masks": _masks, "step": _step, "methods": _methods, "scaling": _scaling}
    return list(compare[name](run[name])) if name in run and name in compare else []


def _loss(result: dict) -> Iterator[Comparison]:
    for row in result["rows"]:
        name = f"DetCon_{row['variant'].upper()} loss, N = {row['images']}, M = {row['regions']}"
        for other, ratio in row["ratios"].items():
            yield Comparison(f"{name}, time", "ms", row["ms"][OURS], row["ms"][other], other, ratio)
        memory = row.get("peak_mib", {})
        for other in [other for other in memory if other != OURS]:
            yield Comparison(f"{name}, memory", "MiB", memory[OURS], memory[other], other, memory[other] / memory[OURS])


def _pipeline(result: dict) -> Iterator[Comparison]:
    speeds = {row["name"]: row["images_per_second"] for row in result["pipelines"]}
    fastest = max(speed for name, speed in speeds.items() if not name.startswith(OURS))
    for row in (row for row in result["pipelines"] if row["name"].startswith(OURS)):
        # Which peer is the fastest can differ from run to run, so it is not named.
        name = f"two views from JPEG, {row['name']}"
        yield Comparison(name, "images/s", speeds[row["name"]], fastest, "the fastest peer", row["times_fastest_peer"])
    cells = result["cells_ms"]
    slowest, fast = max(cells, key=cells.get), min(cells.values())
    yield Comparison("regions to cells, per view", "ms", fast, cells[slowest], slowest, cells[slowest] / fast)


def _masks(result: dict) -> Iterator[Comparison]:
    for row in result["rows"]:
        key, unit = ("ms", "ms") if "ms" in row else ("images_per_s", "images/s")
        yield Comparison(f"masks, {row['name']}, {row['size']}", unit, row[key], row[f"than_{key}"], row["than"], row["ratio"])


def _step(result: dict) -> Iterator[Comparison]:
    name, medians = _step_name(result["problem"]), _medians(result)
    for other in [other for other in medians if other != OURS]:
        yield Comparison(name, "s", medians[OURS], medians[other], other, medians[other] / medians[OURS])
    peak, share = result["peak"] / 1e12, result["share_of_peak"]
    yield Comparison(name, "TFLOP/s", share * peak, peak, "the fastest product", share)
    bound = "every operator as fast as its product or memory"
    yield Comparison(name, "s", medians[OURS], result["roofline"], bound, result["share_of_roofline"])


def _methods(result: dict) -> Iterator[Comparison]:
    problem = result["problem"]
    for method, parts in result["speeds"].items():
        for part, found in parts.items():
            name = f"{method}, {part}, ResNet-{problem['depth']}, {problem['size']} px"
            here = statistics.median(found[OURS])
            for other in [other for other in found if other != OURS]:
                ratio = median_ratio(found[OURS], found[other])
                yield Comparison(name, "images/s", here, statistics.median(found[other]), other, ratio)


def _scaling(result: dict) -> Iterator[Comparison]:
    rates = _step_rates(result)
    (least, base), (most, rate) = rates[0], rates[-1]
    yield Comparison(f"{_step_name(result['problem'])}, {most} processes", "images/s", rate, base, f"{least} process", rate / base)


def _medians(step: dict) -> dict[str, float]:
    """Seconds of a step by name."""
    return {name: statistics.median(seconds) for name, seconds in step["seconds"].items()}


def _step_rates(scaling: dict) -> list[tuple[int, float]]:
    """(processes, images/s of all of them), by the number of processes."""
    images = scaling["problem"]["images"]
    return sorted((int(count), int(count) * images / seconds) for count, seconds in scaling["seconds"].items())


def _step_name(problem: dict) -> str:
    return f"{problem['method']} step, ResNet-{problem['depth']}, {problem['size']} px, batch {problem['images']}"


def benchmark_page(title: str, machine: dict, sections: list[Section], note: str = "") -> str:
    """A page that begins with the machine.

    Args:
        title: plain text.
        machine: from ``describe_machine``.
        sections: contents.
        note: HTML to show above the sections.
    """
    facts = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "versions")
    return page(title, paragraph(escape(facts)) + note, sections)


def _grid(cards: Iterable[str]) -> str:
    """Cards side by side."""
    return f'<div class="cards charts">{"".join(cards)}</div>'


def _line_card(heading: str, lines: list[Line]) -> str:
    """A chart with a legend."""
    return card(heading, legend([(line.label, line.color) for line in lines]) + curves(lines, heading))


def loss_growth_sections(growth: dict[str, dict[str, list[dict]]]) -> list[Section]:
    """Charts of time and memory of the loss.

    Args:
        growth: results of ``measure_growth`` in loss.py, by variant.
    """
    return [
        (f"Growth of DetCon_{variant.upper()}'s loss", _grid(chart for letter in found for chart in _loss_growth(letter, found[letter])))
        for variant, found in growth.items()
    ]


def _loss_growth(letter: str, rows: list[dict]) -> list[str]:
    sizes = {"N": "images", "M": "regions"}
    xs = [row["images"] * row["processes"] if letter == "K" else row[sizes[letter]] for row in rows]
    charts = []
    for key, name in (("ms", "time, ms"), ("peak_mib", "peak memory, MiB")):
        shown = [function for function in (OURS, "lightly", "products") if all(function in row[key] for row in rows)]
        lines = [Line(function, [(x, row[key][function]) for x, row in zip(xs, rows)], color) for color, function in enumerate(shown)]
        charts.append(_line_card(f"{name} over {letter}", lines))
    return charts


def read_run(folder: Path) -> Run:
    """The results in a folder.

    Raises:
        ValueError: the folder has none, or a file is not JSON.
    """
    run = {}
    for path in (folder / f"{name}.json" for name in FILES):
        if path.is_file():
            try:
                run[path.stem] = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is not JSON ({error}); measure again, or remove it.") from error
    if not run:
        raise ValueError(f"{folder} has none of {', '.join(f'{name}.json' for name in FILES)}; run make bench BENCH={folder} first.")
    return run


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of one run each, all from the same machine")
    parser.add_argument("--output", type=Path, metavar="HTML", help="default: summary.html in the first folder")
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_args()
    output = args.output or args.folders[0] / "summary.html"
    try:
        write_bytes_atomically(output, summary_page([read_run(folder) for folder in args.folders]).encode())
    except (ValueError, OSError) as error:
        sys.exit(f"summary.py: {error}")
    print(f"{output}: open it in a browser")
