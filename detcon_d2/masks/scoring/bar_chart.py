"""Horizontal bars in panels, one panel per quantity, as an SVG file for light and dark pages."""

import math
from collections.abc import Sequence
from html import escape

_ROW, _BAR, _PANEL, _GAP, _MARGIN, _HEAD = 26, 16, 110, 62, 16, 58
_CHARACTER = 7.6  # at most, of the 13 px font
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.title{font-size:15px;font-weight:600}.head{font-weight:600}"
    ".track{fill:#8883}.bar{fill:#4878cf}.best{fill:#e1812c}@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


def bar_chart(title: str, names: Sequence[str], panels: dict[str, tuple[Sequence[float], Sequence[str], float | None]]) -> str:
    """A whole SVG file.

    Args:
        title: first line.
        names: of the bars.
        panels: heading -> values >= 0 (NaN: no bar), the labels next to them, and the value of a full bar; None: the largest value.
            If a full value is given, the best bar has another colour.
    """
    left = _MARGIN + _CHARACTER * max(map(len, names)) + 14
    width = max(left + len(panels) * (_PANEL + _GAP), 2 * _MARGIN + _CHARACTER * 1.2 * len(title))
    height = _HEAD + _ROW * len(names) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        _text(_MARGIN, 24, title, ' class="title"'),
    ]
    parts += [_text(left - 14, _HEAD + row * _ROW + 13, name, ' text-anchor="end"') for row, name in enumerate(names)]
    for column, (heading, (values, labels, full)) in enumerate(panels.items()):
        x, best = left + column * (_PANEL + _GAP), max((value for value in values if not math.isnan(value)), default=0.0)
        parts.append(_text(x, _HEAD - 10, heading, ' class="head"'))
        for row, (value, label) in enumerate(zip(values, labels)):
            y = _HEAD + row * _ROW
            parts.append(_bar("track", x, y, 1))
            if not math.isnan(value):
                parts.append(_bar("best" if full and value == best else "bar", x, y, value / (full or best or 1)))
            parts.append(_text(x + _PANEL + 6, y + 13, label))
    return "\n".join(parts) + "\n</svg>\n"


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y}"{attributes}>{escape(text)}</text>'


def _bar(kind: str, x: float, y: float, share: float) -> str:
    return f'<rect class="{kind}" x="{x:.0f}" y="{y}" width="{_PANEL * share:.1f}" height="{_BAR}" rx="2"/>'
