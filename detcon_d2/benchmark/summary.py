"""One page of what the tools of ``make bench`` wrote: how fast, beside what, and how it grows."""

import statistics
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from detcon_d2.benchmark.loss import OURS as OUR_LOSS
from detcon_d2.benchmark.loss_growth import growth_sections
from detcon_d2.benchmark.step import OURS as OUR_STEP
from detcon_d2.io.charts import Line, line_chart, three_digits
from detcon_d2.quickstart.report.page import bars, card, legend, page, paragraph, table

FILES = ("loss", "loss_growth", "pipeline", "masks", "step", "scaling")
"""Names, without ``.json``, of what the page is made of."""

Run = dict[str, dict]
"""What the tools wrote in one run, by name in :data:`FILES`; what was not measured is absent."""


class Comparison(NamedTuple):
    """Two figures of one run.

    Attributes:
        name: what was measured.
        here: the figure, with its unit.
        beside: that of what it is compared with.
        other: what that is.
        ratio: how many times better it is here.
    """

    name: str
    here: str
    beside: str
    other: str
    ratio: float


def summary_page(runs: Sequence[Run]) -> str:
    """HTML of one run or more on one machine: ratios of each, charts of the first.

    Args:
        runs: at least one, with at least one file each.
    """
    first = runs[0]
    machine = next(iter(first.values()))["machine"]
    facts = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "versions")
    sections = [("Beside others", _table([list(_comparisons(run)) for run in runs]))]
    sections += [(heading, f'<div class="cards charts">{"".join(cards)}</div>') for heading, cards in _charts(first) if cards]
    missing = [name for name in FILES if name not in first]
    note = [paragraph(f"Not measured: {', '.join(missing)}.", soft=True)] if missing else []
    return page("Speed and memory", "".join([paragraph(escape(facts)), *note]), sections)


def _table(runs: list[list[Comparison]]) -> str:
    rows = []
    for shown in runs[0]:
        ratios = [found.ratio for run in runs for found in run if (found.name, found.other) == (shown.name, shown.other)]
        each = ", ".join(map(three_digits, ratios))
        rows.append([escape(shown.name), escape(shown.here), escape(shown.beside), escape(shown.other), f"<b>{each}</b>"])
    text = "Ratio: how many times as fast it is here, or how many times less memory it takes."
    several = f" Figures are those of the first of {len(runs)} runs, ratios those of each." if len(runs) > 1 else ""
    return paragraph(text + several, soft=True) + table(["", "here", "beside", "which is", "ratio"], rows)


def _comparisons(run: Run) -> Iterator[Comparison]:
    for row in run.get("loss", {}).get("rows", []):
        name, ms, mib = _loss_name(row), row["ms"], row["peak_mib"]
        for peer, ratio in row["ratios"].items():
            yield Comparison(f"{name}, time", f"{ms[OUR_LOSS]:.0f} ms", f"{ms[peer]:.0f} ms", peer, ratio)
        for peer in set(mib) - {OUR_LOSS}:
            yield Comparison(f"{name}, memory", f"{mib[OUR_LOSS]:.0f} MiB", f"{mib[peer]:.0f} MiB", peer, mib[peer] / mib[OUR_LOSS])
    pipelines = run.get("pipeline", {}).get("pipelines", [])
    peers = {row["name"]: row["images_per_second"] for row in pipelines if not row["name"].startswith("ours")}
    for row in (row for row in pipelines if row["name"] not in peers):
        # Which of them is the fastest can differ from run to run.
        figures = (f"{row['images_per_second']:.0f} images/s", f"{max(peers.values()):.0f} images/s")
        yield Comparison(f"two views from JPEG, {row['name']}", *figures, "the fastest peer", row["times_fastest_peer"])
    if cells := run.get("pipeline", {}).get("cells_ms"):
        (fast, *_, slow), slowest = sorted(cells.values()), max(cells, key=cells.get)
        yield Comparison("regions to cells, a view", f"{fast:.2f} ms", f"{slow:.1f} ms", slowest, slow / fast)
    for row in run.get("masks", {}).get("rows", []):
        key, unit = ("ms", "ms") if "ms" in row else ("images_per_s", "images/s")
        figures = (f"{row[key]:.3g} {unit}", f"{row[f'than_{key}']:.3g} {unit}")
        yield Comparison(f"masks, {row['name']}, {row['size']}", *figures, row["than"], row["ratio"])
    if step := run.get("step"):
        name, medians, share, roofline = _step_name(step["problem"]), _medians(step), step["share_of_peak"], step["share_of_roofline"]
        for other in set(medians) - {OUR_STEP}:
            ratio = medians[other] / medians[OUR_STEP]
            yield Comparison(name, f"{medians[OUR_STEP]:.2f} s", f"{medians[other]:.2f} s", other, ratio)
        figures = (f"{share * step['peak'] / 1e12:.2f} TFLOP/s", f"{step['peak'] / 1e12:.2f} TFLOP/s")
        yield Comparison(name, *figures, "the fastest product", share)
        figures = (f"{medians[OUR_STEP]:.2f} s", f"{step['roofline']:.2f} s")
        yield Comparison(name, *figures, "every operator as fast as its product or memory", roofline)
    if scaling := run.get("scaling"):
        (least, base), *_, (most, rate) = _step_rates(scaling)
        name = f"{_step_name(scaling['problem'])}, {most} processes"
        yield Comparison(name, f"{rate:.1f} images/s", f"{base:.1f} images/s", f"{least} process", rate / base)


def _charts(run: Run) -> Iterator[tuple[str, list[str]]]:
    rows = run.get("loss", {}).get("rows", [])
    units = (("ms", "ms"), ("peak_mib", "peak memory, MiB"))
    yield "Loss", [card(f"{_loss_name(row)}, {unit}", _bars(row[key])) for row in rows for key, unit in units if row[key]]
    pipeline = run.get("pipeline", {})
    speeds = {row["name"]: row["images_per_second"] for row in pipeline.get("pipelines", [])}
    yield "Input pipeline", [card("two views from JPEG, images/s", _bars(speeds))] if speeds else []
    rows = [row for row in run.get("masks", {}).get("rows", []) if "ms" in row]
    yield "Masks", [card(f"{row['name']}, {row['size']}, ms", _bars({"ours": row["ms"], row["than"]: row["than_ms"]})) for row in rows]
    if step := run.get("step"):
        yield "Step", [card(f"{_step_name(step['problem'])}, s", _bars(_medians(step)))]
    yield from growth_sections(run.get("loss_growth", {}).get("growth", {}))
    yield "Growth of the rest", _growth_cards(run)


def _growth_cards(run: Run) -> list[str]:
    cards = []
    if workers := run.get("pipeline", {}).get("workers"):
        speeds = {mode: [(int(count), speed) for count, speed in found.items()] for mode, found in workers.items()}
        lines = [Line(mode, points, color) for color, (mode, points) in enumerate(speeds.items())]
        cards.append(_line_card("loader, images/s over workers", lines))
    if scaling := run.get("scaling"):
        rates = _step_rates(scaling)
        ideal = [(count, rates[0][1] * count / rates[0][0]) for count, _ in rates]
        cards.append(_line_card("step, images/s over processes", [Line("measured", rates, 0), Line("linear", ideal, 5)]))
    return cards


def _line_card(heading: str, lines: list[Line]) -> str:
    return card(heading, legend([(line.label, line.color) for line in lines]) + line_chart(lines, heading))


def _bars(values: dict[str, float]) -> str:
    # Ours have the first colour.
    return bars([(name, 0 if name.startswith("ours") else 5, value) for name, value in values.items()], three_digits)


def _medians(step: dict) -> dict[str, float]:
    """Seconds of a step, by name."""
    return {name: statistics.median(seconds) for name, seconds in step["seconds"].items()}


def _step_rates(scaling: dict) -> list[tuple[int, float]]:
    """(processes, images/s of all of them), by the number of processes."""
    images = scaling["problem"]["images"]
    return sorted((int(count), int(count) * images / seconds) for count, seconds in scaling["seconds"].items())


def _loss_name(row: dict) -> str:
    return f"DetCon_{row['variant'].upper()} loss, N = {row['images']}, M = {row['regions']}"


def _step_name(problem: dict) -> str:
    return f"{problem['method']} step, ResNet-{problem['depth']}, {problem['size']} px, batch {problem['images']}"
