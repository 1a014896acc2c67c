"""Charts: round ticks, curves inside the frame, readable labels, bars as long as their values."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detcon_d2.io.charts import Line, Panel, bar_chart, line_chart, nice_ticks, spread, svg_file, thin


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_enclose_the_data_and_are_about_as_many_as_asked(low, width, count):
    ticks = nice_ticks(low, low + width, count)
    slack = 1e-6 * (abs(low) + width)
    assert ticks[0] <= low + slack and ticks[-1] >= low + width - slack
    assert 2 <= len(ticks) <= count + 2


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, [0, 0.5, 1]), (2.43, 3.12, [2.4, 2.6, 2.8, 3, 3.2]), (0, 170, [0, 50, 100, 150, 200])]
)
def test_ticks_are_round_numbers(low, high, expected):
    assert nice_ticks(low, high, 4) == pytest.approx(expected)


def test_a_constant_has_ticks_too():
    assert nice_ticks(3.0, 3.0, 4)[0] <= 3.0 < nice_ticks(3.0, 3.0, 4)[-1]
    assert len(nice_ticks(0.0, 0.0, 4)) >= 2


def test_labels_are_moved_apart_and_keep_their_order():
    assert spread([50.0, 10.0, 12.0], 13) == [50.0, 10.0, 23.0]


def test_a_chart_is_well_formed_and_its_curves_stay_inside():
    lines = [Line("a < b", [(0, 1.0), (10, 2.0), (20, 0.5)], 0), Line("other", [(0, 0.7)], 1)]
    svg = ElementTree.fromstring(line_chart(lines, "loss & more"))
    width, height = map(float, svg.get("viewBox").split()[2:])
    curves = svg.findall("polyline")
    assert [curve.find("title").text for curve in curves] == ["a < b", "other"]
    for curve in curves:
        for corner in curve.get("points").split():
            x, y = map(float, corner.split(","))
            assert 0 <= x <= width and 0 <= y <= height


@pytest.mark.parametrize(("value", "text"), [(0.1234567, r"0\.123"), (12.3456, r"12\.3"), (1144.7, "1145"), (-0.5, r"-0\.5")])
def test_the_last_value_is_written_at_the_end_of_its_curve(value, text):
    svg = line_chart([Line("a", [(0, 1.0), (10, value)], 3)], "loss")
    assert re.search(rf'class="end c3"[^>]*>{text}<', svg)


def test_higher_values_are_drawn_higher():
    svg = ElementTree.fromstring(line_chart([Line("a", [(0, 1.0), (10, 2.0)], 0)], "x"))
    (x0, y0), (x1, y1) = (map(float, corner.split(",")) for corner in svg.find("polyline").get("points").split())
    assert x1 > x0 and y1 < y0


def test_a_value_outside_a_given_range_is_drawn_at_its_edge():
    svg = ElementTree.fromstring(line_chart([Line("a", [(0, 1.0), (10, 7.0)], 0)], "x", (0.0, 1.0)))
    first, second = svg.find("polyline").get("points").split()
    assert first.split(",")[1] == second.split(",")[1]


def test_the_frame_ends_with_the_data():
    svg = ElementTree.fromstring(line_chart([Line("a", [(0, 1.0), (270, 2.0)], 0)], "x"))
    frame = max(float(line.get("x2")) for line in svg.findall("line"))
    end = svg.find("polyline").get("points").split()[-1]
    assert float(end.split(",")[0]) == frame
    assert [text.text for text in svg.findall("text") if text.get("text-anchor") == "middle"] == ["0", "100", "200"]


def test_bars_are_as_long_as_their_values_and_missing_values_have_none():
    panels = [Panel("share", [0.5, None], ["0.5", "-"], full=1.0, colors=[1, 0]), Panel("ms", [30.0, 60.0], ["30", "60"])]
    text = svg_file(bar_chart(["a & b", "c"], panels, "scores", title="A < B"))
    svg, name = ElementTree.fromstring(text), "{http://www.w3.org/2000/svg}"
    assert [node.text for node in svg.iter(f"{name}text")] == ["A < B", "a & b", "c", "share", "0.5", "-", "ms", "30", "60"]
    rects = [(rect.get("class"), float(rect.get("width"))) for rect in svg.iter(f"{name}rect")]
    full = dict(rects)["track"]
    assert [rect for rect in rects if rect[0] != "track"] == [("bar c1", full / 2), ("bar c0", full / 2), ("bar c0", full)]
    assert max(float(rect.get("x")) + float(rect.get("width")) for rect in svg.iter(f"{name}rect")) < float(svg.get("width"))


def test_thinning_keeps_the_mean_and_the_last_iteration():
    points = [(i, float(i)) for i in range(100)]
    thinned = thin(points, 10)
    assert len(thinned) == 10 and thinned[-1][0] == 99
    assert sum(value for _, value in thinned) / 10 == pytest.approx(49.5)
    assert thin(points[:2], 2) == points[:2]
