"""How time and memory of the DetCon loss grow with the images, the regions and the processes."""

from html import escape

from detcon_d2.benchmark.loss import OURS, PEER, PRODUCTS, Problem, compare
from detcon_d2.io.charts import Line, line_chart
from detcon_d2.quickstart.report.page import card, legend, page, paragraph


def growth(base: Problem, rounds: int, clock: str = "wall") -> dict[str, list[dict]]:
    """Rows by the letter that grows: N, M and K = R * N, from a quarter of ``base``'s value to twice it; R from 1 to 8."""
    series = {
        "N": [base._replace(images=max(1, int(base.images * factor))) for factor in (0.25, 0.5, 1, 2)],
        "M": [base._replace(regions=max(1, int(base.regions * factor))) for factor in (0.25, 0.5, 1, 2)],
        "K": [base._replace(processes=processes) for processes in (1, 2, 4, 8)],
    }
    return {letter: [compare(problem, rounds, clock) for problem in problems] for letter, problems in series.items()}


def growth_page(series: dict[str, dict[str, list[dict]]], machine: dict) -> str:
    """HTML with charts of time and memory.

    Args:
        series: result of :func:`growth` by variant.
        machine: of :func:`detcon_d2.benchmark.timing.machine`.
    """
    sections = [(heading, f'<div class="cards charts">{"".join(cards)}</div>') for heading, cards in growth_sections(series)]
    facts = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "versions")
    return page("DetCon loss: time and memory", paragraph(escape(facts)), sections)


def growth_sections(series: dict[str, dict[str, list[dict]]]) -> list[tuple[str, list[str]]]:
    """Heading and cards, as HTML, of each variant."""
    return [
        (f"Growth of DetCon_{variant.upper()}'s loss", [box for letter, rows in letters.items() for box in _cards(letter, rows)])
        for variant, letters in series.items()
    ]


def _cards(letter: str, rows: list[dict]) -> list[str]:
    xs = [row["images"] * row["processes"] if letter == "K" else row[{"N": "images", "M": "regions"}[letter]] for row in rows]
    result = []
    for key, name in (("ms", "time, ms"), ("peak_mib", "peak memory, MiB")):
        shown = [function for function in (OURS, PEER, PRODUCTS) if all(function in row[key] for row in rows)]
        lines = [Line(function, [(x, row[key][function]) for x, row in zip(xs, rows)], color) for color, function in enumerate(shown)]
        chart = legend([(line.label, line.color) for line in lines]) + line_chart(lines, name)
        result.append(card(f"{name} over {letter}", chart))
    return result
