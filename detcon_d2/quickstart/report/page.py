"""The report's page: style sheet, shell and small pieces of HTML. No script, no font, no file beside it."""

import math
from collections.abc import Callable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --bg: #fff; --ink: #1c2024; --soft: #60676f; --rule: #e1e4e8; --card: #f6f7f9;
  --up: #14753f; --down: #b3261e; --c0: #1f6feb; --c1: #d9730d; --c2: #0f8a6d; --c3: #8b4fd1; --c4: #c02f74; --c5: #6b7280; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #131519; --ink: #e4e7eb; --soft: #9aa3ad; --rule: #2b3037; --card: #1b1f25; --up: #5fd08f; --down: #ff8a80;
    --c0: #6ea8fe; --c1: #f2a154; --c2: #4fc9a9; --c3: #b892f0; --c4: #f07cab; --c5: #a3adb8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 48px 0 4px; padding-top: 14px; border-top: 1px solid var(--rule); }
h3 { font-size: .95rem; margin: 0 0 4px; }
p { max-width: 72ch; margin: 8px 0 14px; }
.soft, figcaption, nav { color: var(--soft); font-size: .875rem; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 0; }
a { color: inherit; text-underline-offset: 3px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 16px; margin: 18px 0; }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.card { background: var(--card); border-radius: 10px; padding: 16px 18px; min-width: 0; }
.big { font-size: 2.3rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.15; font-variant-numeric: tabular-nums; }
.bar { display: grid; grid-template-columns: 9.5em 1fr 4em; gap: 8px; align-items: center; font-size: .875rem; margin-top: 6px; }
.bar i { display: block; height: 10px; border-radius: 3px; min-width: 1px; }
.bar b { text-align: right; font-variant-numeric: tabular-nums; }
.up { color: var(--up); } .down { color: var(--down); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: .875rem; margin: 8px 0; }
.legend i { display: inline-block; width: 18px; height: 3px; border-radius: 2px; vertical-align: middle; margin-right: 6px; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
.sheet { display: block; width: 100%; min-width: 820px; border-radius: 8px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: 10px 0; }
th, td { padding: 6px 12px; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; } tbody th { white-space: normal; min-width: 14em; }
thead th { color: var(--soft); font-weight: 500; }
.chart { width: 100%; height: auto; display: block; }
.chart text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.chart .grid { stroke: var(--rule); }
.chart .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.chart text.end { font-weight: 600; }
figure { margin: 0; min-width: 0; }
.strip { display: grid; grid-template-columns: repeat(var(--n), minmax(92px, 1fr)); gap: 10px; overflow-x: auto; margin: 12px 0; }
.wide { grid-template-columns: repeat(var(--n), minmax(140px, 1fr)); }
.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 12px 28px; }
.tile svg { display: block; width: 100%; border-radius: 6px; }
.tile path { fill-rule: evenodd; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.tile .under { fill: none; stroke: rgba(0, 0, 0, .55); stroke-width: 4px; } .tile .over { stroke-width: 2px; }
.tag { text-anchor: middle; fill: #fff; font-weight: 600; }
.tag { stroke: rgba(0, 0, 0, .8); stroke-width: .18em; paint-order: stroke; stroke-linejoin: round; }
.tile figcaption { font-size: .78rem; line-height: 1.35; margin-top: 4px; }
pre { background: var(--card); border-radius: 8px; padding: 12px 14px; overflow-x: auto; font-size: .8rem; line-height: 1.5; }
""" + "\n".join(
    f"polyline.c{i} {{ stroke: var(--c{i}); }} .dot.c{i}, .chart text.c{i} {{ fill: var(--c{i}); }} i.c{i} {{ background: var(--c{i}); }}"
    for i in range(6)
)
NUM_COLORS = 6
"""Colours ``--c0`` .. of the style sheet."""


def page(title: str, intro: str, sections: Sequence[tuple[str, str]]) -> str:
    """The document.

    Args:
        title: plain text.
        intro: HTML above the sections.
        sections: plain heading and HTML of each.
    """
    anchors = [f"s{number}" for number in range(len(sections))]
    links = "".join(f'<a href="#{anchor}">{escape(heading)}</a>' for anchor, (heading, _) in zip(anchors, sections))
    body = "".join(
        f'<section id="{anchor}"><h2>{escape(heading)}</h2>{content}</section>' for anchor, (heading, content) in zip(anchors, sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{intro}<nav>{links}</nav>{body}</main></body></html>\n"
    )


def paragraph(text: str, soft: bool = False) -> str:
    """A ``<p>`` of HTML; ``soft``: small and grey."""
    return f'<p class="soft">{text}</p>' if soft else f"<p>{text}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells that scrolls sideways on narrow screens; the first cell of a row is its heading."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join(f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def legend(labels: Sequence[tuple[str, int]]) -> str:
    """Plain labels with their colours' indices."""
    return f'<div class="legend">{"".join(f"<span><i class=c{color}></i>{escape(label)}</span>" for label, color in labels)}</div>'


def card(heading: str, content: str) -> str:
    """A box with a plain heading."""
    return f'<div class="card"><h3>{escape(heading)}</h3>{content}</div>'


def number(value: float) -> str:
    """A figure with one decimal; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.1f}"


def bars(rows: Sequence[tuple[str, int, float]], text: Callable[[float], str] = number) -> str:
    """Horizontal bars, the largest value the whole width; NaN has none.

    Args:
        rows: plain label, index of the colour, value >= 0.
        text: of a value.
    """
    longest = max([*(value for _, _, value in rows if not math.isnan(value)), 1e-9])
    return "".join(
        f'<div class="bar"><span>{escape(label)}</span><span><i class="c{index % NUM_COLORS}" '
        f'style="width:{0 if math.isnan(value) else 100 * value / longest:.1f}%"></i></span><b>{text(value)}</b></div>'
        for label, index, value in rows
    )


def signed(value: float) -> str:
    """A difference with one decimal, coloured by its sign; a dash for NaN."""
    if math.isnan(value):
        return "–"
    kind = "up" if value > 0 else "down"
    return f'<span class="{kind}">{value:+.1f}</span>'.replace("-", "−")
