"""HTML pages and charts of the results."""

from collections.abc import Iterable
from html import escape

from timing import OURS

from detcon_d2.quickstart.charts import Line, line_chart
from detcon_d2.quickstart.report_html import card, legend, page, paragraph

Section = tuple[str, str]
"""A plain heading, and HTML."""


def benchmark_page(title: str, machine: dict, sections: list[Section], note: str = "") -> str:
    """A page that begins with the machine.

    Args:
        title: plain text.
        machine: from :func:`machine.describe_machine`.
        sections: contents.
        note: HTML to show above the sections.
    """
    facts = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "versions")
    return page(title, paragraph(escape(facts)) + note, sections)


def grid(cards: Iterable[str]) -> str:
    """Cards side by side."""
    return f'<div class="cards charts">{"".join(cards)}</div>'


def line_card(heading: str, lines: list[Line]) -> str:
    """A chart with a legend."""
    return card(heading, legend([(line.label, line.color) for line in lines]) + line_chart(lines, heading))


def loss_growth_sections(growth: dict[str, dict[str, list[dict]]]) -> list[Section]:
    """Charts of time and memory of the loss.

    Args:
        growth: results of :func:`loss.measure_growth` by variant.
    """
    return [
        (f"Growth of DetCon_{variant.upper()}'s loss", grid(chart for letter, rows in by_letter.items() for chart in _growth(letter, rows)))
        for variant, by_letter in growth.items()
    ]


def _growth(letter: str, rows: list[dict]) -> list[str]:
    sizes = {"N": "images", "M": "regions"}
    xs = [row["images"] * row["processes"] if letter == "K" else row[sizes[letter]] for row in rows]
    result = []
    for key, name in (("ms", "time, ms"), ("peak_mib", "peak memory, MiB")):
        shown = [function for function in (OURS, "lightly", "products") if all(function in row[key] for row in rows)]
        lines = [Line(function, [(x, row[key][function]) for x, row in zip(xs, rows)], color) for color, function in enumerate(shown)]
        result.append(line_card(f"{name} over {letter}", lines))
    return result
