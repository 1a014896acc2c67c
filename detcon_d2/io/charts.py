"""Line charts and bar charts as SVG text, for web pages and for files of their own. They follow the light or dark scheme of the reader."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

NUM_COLORS = 6
"""Colours that a chart can refer to by index, 0 first."""

Points = list[tuple[int, float]]
"""(x, y) pairs in the order of x, for example iteration and loss."""

_LIGHT = ("#1f6feb", "#d9730d", "#0f8a6d", "#8b4fd1", "#c02f74", "#6b7280")
_DARK = ("#6ea8fe", "#f2a154", "#4fc9a9", "#b892f0", "#f07cab", "#a3adb8")
_LINE_SIZE = (320, 200)
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 48, 12, 30
_MAX_POINTS = 300
_LABEL_HEIGHT = 13
_ROW, _BAR, _PANEL, _GAP, _MARGIN = 26, 16, 110, 62, 16
# Pixels of one character of the 13 px font, at most: names rarely have wide characters only.
_CHARACTER = 7.6


def _color_rules(colors: Sequence[str]) -> str:
    return " ".join(f".c{index} {{ color: {color}; }}" for index, color in enumerate(colors))


STYLE = f"""
.chart {{ max-width: 100%; height: auto; font: 13px system-ui, sans-serif; }}
.chart text {{ fill: #60676f; font-variant-numeric: tabular-nums; }}
.chart .title {{ font-size: 15px; font-weight: 600; }} .chart .head {{ font-weight: 600; }}
.chart .grid {{ stroke: #8885; }} .chart .track {{ fill: #8883; }}
.chart .curve {{ fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }}
.chart .bar, .chart .dot, .chart text.end {{ fill: currentColor; }} .chart text.end {{ font-weight: 600; }}
{_color_rules(_LIGHT)}
@media (prefers-color-scheme: dark) {{ .chart text {{ fill: #9aa3ad; }} {_color_rules(_DARK)} }}
"""
"""Style sheet of all charts; a page with charts includes it once. The classes ``c0``, ``c1``, ... set the colour of any element."""


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: name of the curve, shown as its tooltip.
        points: at least one.
        color: index of a colour, taken modulo ``NUM_COLORS``.
    """

    label: str
    points: Points
    color: int


@dataclass(frozen=True)
class Panel:
    """Bars of one quantity, one bar for each row of the chart.

    Attributes:
        name: heading of the panel, may be empty.
        values: one for each row, >= 0; None or NaN has no bar.
        labels: text after each bar.
        full: value of a bar of full length; None: the largest value.
        colors: index of each bar's colour; None: 0 for all.
    """

    name: str
    values: Sequence[float | None]
    labels: Sequence[str]
    full: float | None = None
    colors: Sequence[int] | None = None


def svg_file(chart: str) -> str:
    """The content of an ``.svg`` file: the chart of one of the functions below with the style sheet inside."""
    return chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f"><style>{STYLE}</style>", 1) + "\n"


def line_chart(lines: Sequence[Line], name: str, y_range: tuple[float, float] | None = None) -> str:
    """An ``<svg>`` element with the curves; the last value of each curve is written at its end.

    Args:
        lines: at least one. Curves with more than 300 points are drawn through means of neighbouring points.
        name: what the vertical axis shows, for screen readers.
        y_range: of the vertical axis; ``None``: from the data.
    """
    lines = [Line(line.label, thin(line.points, _MAX_POINTS), line.color % NUM_COLORS) for line in lines]
    xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
    first, last = min(xs), max(xs)
    # The horizontal axis ends with the data, unless all data is at a single x.
    x_ticks = [tick for tick in nice_ticks(first, last, 4) if first == last or tick <= last]
    y_ticks = nice_ticks(*(y_range or (min(ys), max(ys))), 4)
    width, height = _LINE_SIZE
    right, bottom = width - _RIGHT, height - _BOTTOM

    def x_at(x: float) -> float:
        return _interpolate(x, x_ticks[0], max(last, x_ticks[-1]), _LEFT, right)

    def y_at(y: float) -> float:
        return _interpolate(y, y_ticks[0], y_ticks[-1], bottom, _TOP)

    parts = []
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y_at(tick):.1f}" y2="{y_at(tick):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y_at(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts += [f'<text x="{x_at(tick):.1f}" y="{height - 10}" text-anchor="middle">{tick:g}</text>' for tick in x_ticks]
    label_heights = spread([y_at(line.points[-1][1]) for line in lines], _LABEL_HEIGHT)
    for line, label_height in zip(lines, label_heights):
        color, (x, y) = f"c{line.color}", line.points[-1]
        corners = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="curve {color}" points="{corners}"><title>{escape(line.label)}</title></polyline>')
        parts.append(f'<circle class="dot {color}" cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3"/>')
        parts.append(f'<text class="end {color}" x="{x_at(x) + 6:.1f}" y="{label_height + 4:.1f}">{three_digits(y)}</text>')
    return _svg(width, height, name, parts)


def bar_chart(rows: Sequence[str], panels: Sequence[Panel], name: str, title: str = "") -> str:
    """An ``<svg>`` element with horizontal bars: the panels are side by side, and each has one bar for each row.

    Args:
        rows: names of the rows.
        panels: each with as many values and labels as there are rows.
        name: what the chart shows, for screen readers.
        title: text above the chart, may be empty.
    """
    left = _MARGIN + _CHARACTER * max(map(len, rows), default=0) + 14
    top = 8 + (24 if title else 0) + (26 if any(panel.name for panel in panels) else 0)
    parts = [f'<text class="title" x="{_MARGIN}" y="24">{escape(title)}</text>'] if title else []
    for index, row in enumerate(rows):
        parts.append(f'<text x="{left - 14:.0f}" y="{top + index * _ROW + 13}" text-anchor="end">{escape(row)}</text>')
    for index, panel in enumerate(panels):
        parts += _bars(panel, left + index * (_PANEL + _GAP), top)
    width = max(left + len(panels) * (_PANEL + _GAP), 2 * _MARGIN + _CHARACTER * 1.2 * len(title))
    return _svg(round(width), top + _ROW * len(rows), name, parts)


def _bars(panel: Panel, x: float, top: int) -> list[str]:
    numbers = [value for value in panel.values if not _is_missing(value)]
    full = panel.full or max(numbers, default=0.0) or 1.0
    colors = panel.colors or [0] * len(panel.values)
    parts = [f'<text class="head" x="{x:.0f}" y="{top - 10}">{escape(panel.name)}</text>'] if panel.name else []
    for index, (value, label, color) in enumerate(zip(panel.values, panel.labels, colors)):
        y, corner = top + index * _ROW, f'height="{_BAR}" rx="2"'
        parts.append(f'<rect class="track" x="{x:.0f}" y="{y}" width="{_PANEL}" {corner}/>')
        if not _is_missing(value):
            parts.append(f'<rect class="bar c{color % NUM_COLORS}" x="{x:.0f}" y="{y}" width="{_PANEL * value / full:.1f}" {corner}/>')
        parts.append(f'<text x="{x + _PANEL + 6:.0f}" y="{y + 13}">{escape(label)}</text>')
    return parts


def three_digits(value: float) -> str:
    """The value with three significant digits, and without an exponent where it is large: 0.123, 12.3, 1234."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart) that enclose ``low`` .. ``high``; at least two."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def spread(heights: Sequence[float], distance: float) -> list[float]:
    """The heights moved apart, downwards, until no two are nearer than ``distance``; their order stays."""
    result = list(heights)
    previous = -math.inf
    for index in sorted(range(len(heights)), key=lambda index: heights[index]):
        result[index] = previous = max(heights[index], previous + distance)
    return result


def thin(points: Points, limit: int) -> Points:
    """At most ``limit`` points. Where there are more, neighbouring points are replaced by their mean, at the last x of the group."""
    size = -(-len(points) // limit)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], math.fsum(value for _, value in group) / len(group)) for group in groups]


def _svg(width: int, height: int, name: str, parts: list[str]) -> str:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg class="chart" {size} role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'


def _interpolate(value: float, low: float, high: float, start: float, end: float) -> float:
    """Maps ``low`` .. ``high`` to ``start`` .. ``end``; values outside of the range go to its ends."""
    share = (value - low) / (high - low)
    return start + min(1.0, max(0.0, share)) * (end - start)


def _is_missing(value: float | None) -> bool:
    return value is None or math.isnan(value)
