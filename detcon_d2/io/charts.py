"""Line charts as inline SVG: text and colours follow the page's style sheet, so that they suit light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Points = list[tuple[int, float]]
"""(iteration, value) pairs, sorted by iteration, each iteration once."""

_WIDTH, _HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 48, 12, 30
_MAX_POINTS = 300
_LABEL_HEIGHT = 13


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: its name, for the tooltip.
        points: at least one.
        color: index into the page's colours ``--c0``, ``--c1``, ...
    """

    label: str
    points: Points
    color: int


def line_chart(lines: Sequence[Line], name: str, y_range: tuple[float, float] | None = None) -> str:
    """An ``<svg>`` of the curves over the iteration, the last value of each written at its end.

    Args:
        lines: at least one.
        name: what the vertical axis shows, for screen readers.
        y_range: of the vertical axis; ``None``: from the data.
    """
    lines = [Line(line.label, thin(line.points, _MAX_POINTS), line.color) for line in lines]
    first, last = _extent([x for line in lines for x, _ in line.points])
    # The frame ends with the data, unless that is a single iteration.
    x_ticks = [tick for tick in nice_ticks(first, last, 4) if first == last or tick <= last]
    y_ticks = nice_ticks(*(y_range or _extent([y for line in lines for _, y in line.points])), 4)
    x_scale = _Scale(x_ticks[0], max(last, x_ticks[-1]), _LEFT, _WIDTH - _RIGHT)
    y_scale = _Scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(name)}">']
    for tick in y_ticks:
        y = y_scale(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts += [f'<text x="{x_scale(tick):.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{tick:g}</text>' for tick in x_ticks]
    parts += [_curve(line, x_scale, y_scale) for line in lines]
    heights = spread([y_scale(line.points[-1][1]) for line in lines], _LABEL_HEIGHT)
    for line, height in zip(lines, heights):
        x, y = line.points[-1]
        parts.append(f'<text class="end c{line.color}" x="{x_scale(x) + 6:.1f}" y="{height + 4:.1f}">{three_digits(y)}</text>')
    return "".join(parts) + "</svg>"


def three_digits(value: float) -> str:
    """The value as people write it, without an exponent where it is large: 0.123, 12.3, 1234."""
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
    """The heights moved apart, downwards, until no two are nearer than ``distance``; the order stays."""
    result = list(heights)
    previous = -math.inf
    for index in sorted(range(len(heights)), key=lambda index: heights[index]):
        result[index] = previous = max(heights[index], previous + distance)
    return result


@dataclass(frozen=True)
class _Scale:
    """Linear, from ``low`` .. ``high`` to ``start`` .. ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def _extent(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _curve(line: Line, x_scale: _Scale, y_scale: _Scale) -> str:
    corners = " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in line.points)
    end = line.points[-1]
    return (
        f'<polyline class="curve c{line.color}" points="{corners}"><title>{escape(line.label)}</title></polyline>'
        f'<circle class="dot c{line.color}" cx="{x_scale(end[0]):.1f}" cy="{y_scale(end[1]):.1f}" r="3"/>'
    )


def thin(points: Points, limit: int) -> Points:
    """At most ``limit`` points: means of neighbouring ones where there are more, the last iteration of each group as its place."""
    size = -(-len(points) // limit)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], math.fsum(value for _, value in group) / len(group)) for group in groups]
