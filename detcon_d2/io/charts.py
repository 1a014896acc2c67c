"""Line charts and bar charts as SVG text, drawn by matplotlib. The background is transparent, for light and dark pages."""

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

COLORS = ("#2f7bf0", "#d9730d", "#0f9a78", "#9a63dd", "#d0458a", "#7a838c")
"""Colours that a chart refers to by index, readable on white and on black."""

_GRAY, _TRACK = COLORS[-1], "#88888840"
_STYLE = {f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")} | {
    # The same input gives the same bytes; text stays text.
    **{"svg.hashsalt": "detcon_d2", "svg.fonttype": "none", "font.size": 9, "axes.titlesize": 9, "text.color": _GRAY},
    **{"xtick.color": _GRAY, "ytick.color": _GRAY, "xtick.bottom": False, "ytick.left": False, "axes.xmargin": 0},
    **{"axes.grid": True, "axes.grid.axis": "y", "grid.color": _TRACK, "axes.axisbelow": True, "axes.titlecolor": _GRAY},
}


class Line(NamedTuple):
    """One curve: its name, at least one point (x, y), and the index of its colour, taken modulo the number of ``COLORS``."""

    label: str
    points: Sequence[tuple[int, float]]
    color: int


class Panel(NamedTuple):
    """Bars of one quantity: a heading, which may be empty, and a value >= 0 and the text after its bar for each row of the chart.

    A value None or NaN has no bar. ``full`` is the value of a bar of full length, None: the largest. ``colors`` are the indices of the
    bars' colours, None: 0 for all.
    """

    name: str
    values: Sequence[float | None]
    labels: Sequence[str]
    full: float | None = None
    colors: Sequence[int] | None = None


@matplotlib.rc_context(_STYLE)
def line_chart(lines: Sequence[Line], y_range: tuple[float, float] | None = None) -> str:
    """The curves; the last value of each is written at its end. ``y_range`` of the vertical axis: None takes it from the data."""
    figure = Figure(figsize=(3.9, 2.4), layout="constrained")
    axes = figure.add_subplot()
    axes.locator_params(nbins=5)
    for index, (_, points, color) in enumerate(lines):
        x, y = np.array(points).T
        y = y if y_range is None else y.clip(*y_range)
        axes.plot(x, y, color=COLORS[color % len(COLORS)], marker="o", markersize=4, markevery=[-1], clip_on=False, gid=f"curve{index}")
    bottom, top = axes.set_ylim(y_range)
    height = -math.inf
    for _, points, color in sorted(lines, key=lambda line: line.points[-1][1]):
        x, y = points[-1]
        # Labels that would overlap are moved upwards.
        height = max(min(max(y, bottom), top), height + 0.09 * (top - bottom))
        style = {"color": COLORS[color % len(COLORS)], "weight": "bold", "va": "center", "annotation_clip": False}
        axes.annotate(three_digits(y), (x, height), (6, 0), textcoords="offset points", **style)
    return _svg(figure)


@matplotlib.rc_context(_STYLE | {"axes.grid": False})
def bar_chart(rows: Sequence[str], panels: Sequence[Panel], title: str = "") -> str:
    """Horizontal bars: the panels are side by side, and each has one bar for each named row. The title above them may be empty."""
    width = max(0.08 * max(map(len, rows)) + 1.7 * len(panels), 0.1 * len(title))
    figure = Figure(figsize=(width, 0.27 * len(rows) + 0.3 * bool(title) + 0.25), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", size=11, weight="bold")
    places = range(len(rows))
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1, xticks=[], title=panel.name, ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks(places if index == 0 else [], rows if index == 0 else [])
        values = np.nan_to_num(np.array(panel.values, float))
        full = panel.full or max(values) or 1.0
        axes.barh(places, [full] * len(rows), height=0.6, color=_TRACK)
        for place, value, label, color in zip(places, values, panel.labels, panel.colors or [0] * len(rows)):
            axes.barh(place, value, height=0.6, color=COLORS[color % len(COLORS)], gid=f"bar{index}-{place}")
            axes.text(1.05 * full, place, label, va="center")
    return _svg(figure)


def three_digits(value: float) -> str:
    """The value with three significant digits, and without an exponent where it is large: 0.123, 12.3, 1234."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
