"""Charts: curves go where the data goes, bars are as long as their values, and the same input gives the same bytes."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from detcon_d2.io.charts import Line, Panel, bar_chart, line_chart

SVG = "{http://www.w3.org/2000/svg}"


def path_of(chart: str, name: str) -> np.ndarray:
    """The (x, y) corners of the first path in the group of this name, in the file's units: y downwards."""
    group = next(group for group in ElementTree.fromstring(chart).iter(f"{SVG}g") if group.get("id") == name)
    return np.array(re.findall(r"[-\d.]+", next(group.iter(f"{SVG}path")).get("d")), float).reshape(-1, 2)


def texts_of(chart: str) -> list[str]:
    return [text.text for text in ElementTree.fromstring(chart).iter(f"{SVG}text")]


def test_curves_follow_the_data_and_end_with_their_last_values():
    lines = [Line("a < b", [(0, 1.0), (10, 2.0), (20, 0.5)], 0), Line("other", [(0, 0.5), (20, 0.5001)], 7), Line("one", [(0, 1144.7)], 1)]
    chart = line_chart(lines[:2])
    x, y = path_of(chart, "curve0").T
    assert x[2] - x[1] == pytest.approx(x[1] - x[0]) and y[1] < y[0] < y[2]
    labels = [text for text in ElementTree.fromstring(chart).iter(f"{SVG}text") if text.text == "0.5"]
    heights = [float(re.findall(r"[-\d.]+", text.get("transform") or text.get("y"))[-1]) for text in labels[-2:]]
    assert abs(heights[0] - heights[1]) > 9  # labels of equal values do not overlap
    assert "1145" in texts_of(line_chart(lines[2:])) and line_chart(lines) == line_chart(lines)


def test_values_outside_of_a_given_range_are_drawn_at_its_edge():
    chart = line_chart([Line("a", [(0, 1.0), (5, 0.5), (10, 7.0)], 0)], (0.0, 1.0))
    heights = path_of(chart, "curve0")[:, 1]
    assert heights[0] == heights[2] < heights[1] and "7" in texts_of(chart)


def test_bars_are_as_long_as_their_values_and_missing_values_have_none():
    panels = [Panel("share", [0.5, None], ["0.5", "-"], full=1.0, colors=[1, 0]), Panel("ms", [30.0, 60.0], ["30", "60"])]
    chart = bar_chart(["a & b", "c"], panels, title="A < B")
    assert {"A < B", "a & b", "c", "share", "0.5", "-", "ms", "30", "60"} == set(texts_of(chart))
    lengths = [np.ptp(path_of(chart, name)[:, 0]) for name in ("bar0-0", "bar0-1", "bar1-0", "bar1-1")]
    assert lengths[1] == 0 and lengths[0] == pytest.approx(lengths[3] / 2, rel=0.01) == pytest.approx(lengths[2], rel=0.01)
