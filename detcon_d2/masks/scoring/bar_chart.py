"""Horizontal bars side by side, a panel for each quantity, as an SVG file that suits light and dark pages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_ROW, _BAR, _PANEL, _GAP, _MARGIN = 26, 16, 110, 62, 16
_HEAD = 58
# Of a character of the 13 px font, at most; names of sources have no wide ones.
_CHARACTER = 7.6
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.title{font-size:15px;font-weight:600}.head{font-weight:600}"
    ".track{fill:#8883}.bar{fill:#4878cf}.best{fill:#e1812c}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


@dataclass(frozen=True)
class Panel:
    """One quantity.

    Attributes:
        name: its heading.
        values: one for each row, >= 0; None or NaN has no bar.
        labels: written beside the bars.
        full: the value of a full bar; None: the largest value. With one, the best value is of another colour.
    """

    name: str
    values: Sequence[float | None]
    labels: Sequence[str]
    full: float | None = None


def bar_chart(rows: Sequence[str], panels: Sequence[Panel], title: str) -> str:
    """A whole SVG file.

    Args:
        rows: their names.
        panels: each with as many values and labels as there are rows.
        title: first line.
    """
    left = _MARGIN + _CHARACTER * max(map(len, rows), default=0) + 14
    width = max(left + len(panels) * (_PANEL + _GAP), 2 * _MARGIN + _CHARACTER * 1.2 * len(title))
    height = _HEAD + _ROW * len(rows) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="{_MARGIN}" y="24">{escape(title)}</text>',
    ]
    for index, name in enumerate(rows):
        parts.append(f'<text x="{left - 14:.0f}" y="{_HEAD + index * _ROW + 13}" text-anchor="end">{escape(name)}</text>')
    for index, panel in enumerate(panels):
        parts += _draw_panel(panel, left + index * (_PANEL + _GAP))
    return "\n".join(parts) + "\n</svg>\n"


def _draw_panel(panel: Panel, x: float) -> list[str]:
    numbers = [value for value in panel.values if value is not None and not math.isnan(value)]
    full = panel.full or max(numbers, default=0.0) or 1.0
    parts = [f'<text class="head" x="{x:.0f}" y="{_HEAD - 10}">{escape(panel.name)}</text>']
    for index, (value, label) in enumerate(zip(panel.values, panel.labels)):
        y = _HEAD + index * _ROW
        parts.append(f'<rect class="track" x="{x:.0f}" y="{y}" width="{_PANEL}" height="{_BAR}" rx="2"/>')
        if value is not None and not math.isnan(value):
            kind = "best" if panel.full and value == max(numbers) else "bar"
            parts.append(f'<rect class="{kind}" x="{x:.0f}" y="{y}" width="{_PANEL * value / full:.1f}" height="{_BAR}" rx="2"/>')
        parts.append(f'<text x="{x + _PANEL + 6:.0f}" y="{y + 13}">{escape(label)}</text>')
    return parts
