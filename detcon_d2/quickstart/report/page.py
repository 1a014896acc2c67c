"""Web pages without scripts, fonts or other files: the frame of a page, and small pieces of HTML, all well-formed XML too.

``page.css`` is the style sheet.
"""

import base64
import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from detcon_d2.io.charts import COLORS, Line, Panel, bar_chart, line_chart, three_digits


def page(title: str, intro: str, sections: Sequence[tuple[str, str]]) -> str:
    """The document: a title (plain text), HTML above the sections, and heading (plain text) and HTML of each section."""
    title, style = escape(title), Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    named = [(f"s{number}", escape(heading), content) for number, (heading, content) in enumerate(sections)]
    links = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, heading, _ in named)
    body = "".join(f'<section id="{anchor}"><h2>{heading}</h2>{content}</section>' for anchor, heading, content in named)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{title}</title><style>{style}</style></head>
<body><main><h1>{title}</h1>{intro}<nav>{links}</nav>{body}</main></body></html>
"""


def paragraph(text: str, soft: bool = False) -> str:
    """A ``<p>`` of HTML; ``soft``: small and grey."""
    return f'<p class="soft">{text}</p>' if soft else f"<p>{text}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """A table of HTML cells that scrolls sideways on narrow screens; the first cell of a row is its heading.

    The column headings may be empty. The kind is "numbers", or "facts" for cells with long text.
    """
    top = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join(f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def legend(labels: Sequence[tuple[str, int]]) -> str:
    """Labels (plain text), each with a line in the colour of its index."""
    entries = [f'<span><i style="color: {COLORS[color % len(COLORS)]}"></i>{escape(label)}</span>' for label, color in labels]
    return f'<div class="legend">{"".join(entries)}</div>'


def card(heading: str, content: str) -> str:
    """A box with a heading (plain text) above HTML."""
    return f'<div class="card"><h3>{escape(heading)}</h3>{content}</div>'


def switch(name: str, panels: Sequence[tuple[str, str]]) -> str:
    """Up to four panels of HTML, of which one is shown; buttons with their labels (plain text) choose. The name is unique in the page."""
    buttons = []
    for index, (label, _) in enumerate(panels):
        chosen = 'checked="checked" ' if index == 0 else ""
        button = f'<input type="radio" {chosen}name="{name}" id="{name}{index}"/>'
        buttons.append(f'{button}<label for="{name}{index}">{escape(label)}</label>')
    return f'<div class="switch">{"".join(buttons)}{"".join(f"<div>{content}</div>" for _, content in panels)}</div>'


def number(value: float) -> str:
    """A value with one decimal; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.1f}"


def signed(value: float) -> str:
    """A difference with one decimal and its sign, green above zero and red below; a dash for NaN."""
    if math.isnan(value):
        return "–"
    kind = "up" if value > 0 else "down" if value < 0 else "soft"
    return f'<span class="{kind}">{value:+.1f}</span>'.replace("-", "−")


def bars(rows: Sequence[tuple[str, int, float]], text: Callable[[float], str] = number) -> str:
    """Horizontal bars of (label as plain text, index of the colour, value >= 0), at least one; ``text`` writes a value.

    The largest value has the full length and NaN has no bar.
    """
    labels, colors, values = zip(*rows)
    texts = [text(value) for value in values]
    return _image(bar_chart(labels, [Panel("", values, texts, colors=colors)]).encode(), "svg+xml", _spoken(labels, texts))


def curves(lines: Sequence[Line], name: str, y_range: tuple[float, float] | None = None) -> str:
    """A line chart as in :func:`~detcon_d2.io.charts.line_chart`. The name is what the vertical axis shows, for screen readers."""
    last = _spoken([line.label for line in lines], [three_digits(line.points[-1][1]) for line in lines])
    return _image(line_chart(lines, y_range).encode(), "svg+xml", f"{name}, last values: {last}")


def photo(image: np.ndarray, alt: str) -> str:
    """An image uint8 (H, W, 3) RGB over the width of the page, embedded as JPEG, with a description (plain text)."""
    ok, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert ok
    return f'<div class="scroll">{_image(data.tobytes(), "jpeg", alt)}</div>'


def _spoken(labels: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"{label} {value}" for label, value in zip(labels, values))


def _image(data: bytes, kind: str, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode("ascii")}"/>'
