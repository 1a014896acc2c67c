"""Scores of sources over a data set, and how they are written."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcon_d2.masks import LabelMapStore, build_generator
from detcon_d2.masks.scoring.contact_sheet import StoredRegions
from detcon_d2.masks.scoring.ground_truth import list_bsds
from detcon_d2.masks.scoring.score_report import format_table, score_sources, write_chart, write_json


class TwoLayers:
    """Image-level and 2 x 2 regions together."""

    name, needs_annotations, layers = "two", False, 2

    def params(self) -> dict:
        return {}

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return np.stack([build_generator("grid", size=size)(image, rng) for size in (1, 2)])

    def advice(self, height: int, width: int) -> None:
        return None


@pytest.fixture
def quarters(tmp_path: Path) -> list[dict]:
    """Two images, 8 x 8: four quarters drawn by one person; halves and quarters by two."""
    quarter, half = build_generator("grid", size=2)(np.zeros((8, 8, 3), np.uint8), None), np.repeat([[0, 1]], 8, axis=0).repeat(4, axis=1)
    for name, people in (("1", [quarter]), ("2", [half, quarter])):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "gt").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{name}.png")
        np.savez(tmp_path / "gt" / f"{name}.npz", seg=np.stack(people) + 1)
    return list_bsds(str(tmp_path / "images"), str(tmp_path / "gt"))


@pytest.mark.parametrize("workers", [1, 2])
def test_images_are_averaged_and_objects_pooled(quarters, workers):
    sources = {"whole": build_generator("grid", size=1), "four": build_generator("grid")}
    whole, four = score_sources(sources, quarters, workers=workers, progress=False)
    # One region: IoU 1/4 with a quarter, 1/2 with a half. Image 2 is the mean over two people; best overlap is over 4 + 2 + 4 objects.
    covering = (1 / 4 + (1 / 2 + 1 / 4) / 2) / 2
    shares = {"covering": covering, "boundary_recall": 0, "asa": covering, "best_overlap": (4 / 4 + 2 / 2 + 4 / 4) / 10}
    milliseconds = whole.pop("milliseconds"), four.pop("milliseconds")
    assert whole == pytest.approx({"source": "whole", "images": 2, **shares, "regions": 1, "median_regions": 1})
    shares = {"covering": (1 + (1 / 2 + 1) / 2) / 2, "boundary_recall": 1, "asa": 1, "best_overlap": (4 + 2 * 1 / 2 + 4) / 10}
    assert four == pytest.approx({"source": "four", "images": 2, **shares, "regions": 4, "median_regions": 4})
    assert min(milliseconds) >= 0


def test_every_layer_has_its_line(quarters):
    results = score_sources({"two": TwoLayers()}, quarters, progress=False)
    assert [(one["source"], one["regions"]) for one in results] == [("two [0]", 1), ("two [1]", 4)]


def test_files_are_scored_without_a_time(quarters, tmp_path):
    store = LabelMapStore.create(tmp_path / "masks", "grid", {"size": 2}, "folder:/images")
    for record in quarters:
        store.write(record["key"], build_generator("grid")(np.zeros((8, 8, 3), np.uint8), None))
    (result,) = score_sources({"masks": StoredRegions(tmp_path / "masks")}, quarters, progress=False)
    assert result["asa"] == 1 and result["milliseconds"] is None
    store.write("2.png", np.zeros((8, 9), np.uint16))
    with pytest.raises(ValueError, match=r"label map of 2\.png from .*/masks is 9 x 8 .*images/2\.png is 8 x 8"):
        score_sources({"masks": StoredRegions(tmp_path / "masks")}, quarters, progress=False)


NAN = float("nan")
KEYS = "source", "images", "covering", "boundary_recall", "asa", "best_overlap", "regions", "median_regions", "milliseconds"
RESULTS = [
    dict(zip(KEYS, ("fh scale=300", 2, 0.51234, 0.9, 0.95, 0.4, 123.4, 120.0, 71.26))),
    dict(zip(KEYS, ("a & b", 2, NAN, NAN, 0.5, NAN, 4.0, 4.0, None))),
]


def test_tables_for_people_and_for_markdown():
    plain, markdown = format_table(RESULTS).splitlines(), format_table(RESULTS, markdown=True).splitlines()
    assert plain[0].split() == ["source", "covering", "boundary", "recall", "ASA", "best", "overlap", "regions", "median", "ms"]
    assert plain[2].split() == ["fh", "scale=300", "0.512", "0.900", "0.950", "0.400", "123", "120", "71.3"]
    assert plain[3].split() == ["a", "&", "b", "-", "-", "0.500", "-", "4", "4", "-"]
    assert markdown[2].startswith("| `fh scale=300`") and set(markdown[1]) == set("|-:") and len(markdown) == 4


def test_json_has_null_for_no_number_and_a_chart_has_a_bar_for_every_number(tmp_path):
    write_json(RESULTS, tmp_path / "new" / "s.json")
    first, second = json.loads((tmp_path / "new" / "s.json").read_text())
    assert first == RESULTS[0]
    assert second == RESULTS[1] | {"covering": None, "boundary_recall": None, "best_overlap": None}
    write_chart(RESULTS, tmp_path / "s.svg", "A < B")
    texts = [text.text for text in ET.parse(tmp_path / "s.svg").getroot().iter("{http://www.w3.org/2000/svg}text")]
    assert {"A < B", "a & b", "covering", "0.512", "71.3"} <= set(texts) and texts.count("-") == 4 and "median" not in texts
    with pytest.raises(ValueError, match=r"expected the name of an \.svg"):
        write_chart(RESULTS, tmp_path / "s.png", "A")
    with pytest.raises(ValueError, match="no sources"):
        score_sources({}, [])
