"""Pictures contain their pixels, and outlines follow the edges of the masks."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from detcon_d2.quickstart.report.images import detection_strip, draw_things, outline, picture
from detcon_d2.quickstart.report.inputs import LabelledImages, Thing


def test_a_picture_shows_the_image_in_rgb_with_its_caption():
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, :, 0] = 200
    figure = ElementTree.fromstring(picture(image, "", "a < b & c"))
    kind, data = figure.find("svg/image").get("href").split(",")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
    assert kind == "data:image/jpeg;base64" and shown.shape == (16, 24, 3) and abs(shown - image).max() < 12
    assert figure.find("figcaption").text == "a < b & c" and figure.find("svg").get("viewBox") == "0 0 24 16"


def loops(mask: np.ndarray) -> list[np.ndarray]:
    path = re.search(r' d="([^"]*)"', outline(mask)).group(1)
    return [np.array(re.findall(r"[-\d.]+", loop), float).reshape(-1, 2) for loop in path.split("M")[1:]]


def area(loop: np.ndarray) -> float:
    x, y = loop.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def test_the_outline_encloses_the_area_of_the_mask():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    (loop,) = loops(mask)
    assert area(loop) == pytest.approx(600, rel=0.05)
    np.testing.assert_allclose([loop.min(axis=0), loop.max(axis=0)], [[20, 10], [50, 30]], atol=0.3)
    assert loops(np.zeros((4, 4), bool)) == []


def test_a_hole_and_a_second_piece_are_loops_of_their_own():
    mask = np.zeros((40, 60), bool)
    mask[5:35, 5:35] = True
    mask[15:25, 15:25] = False
    mask[5:15, 45:55] = True
    assert sorted(round(area(loop) / 100) for loop in loops(mask)) == [1, 1, 9]


def test_incorrect_detections_are_dashed_and_scores_are_written():
    mask = np.zeros((32, 32), bool)
    mask[4:20, 4:20] = True
    correct, wrong = (draw_things([Thing(3, mask, (4, 4, 16, 16), 0.875, value)], {3: "a<b"}, (32, 32)) for value in (True, False))
    assert "dasharray" in wrong and "dasharray" not in correct
    assert "a&lt;b 0.88" in correct


@pytest.mark.parametrize("box", [(-30.0, -30.0, 10.0, 10.0), (60.0, 60.0, 40.0, 40.0)])
def test_labels_stay_inside_the_image(box):
    drawn = draw_things([Thing(1, np.ones((32, 32), bool), box)], {1: "disc"}, (32, 32))
    x, y = (float(re.search(rf'<text class="tag"[^>]* {axis}="([\d.-]+)"', drawn).group(1)) for axis in "xy")
    assert 0 <= x <= 32 and 0 <= y <= 32


def test_a_strip_counts_the_correct_detections_of_each_method(quickstart):
    images = LabelledImages(quickstart / "data", "val")
    objects = images.objects(0)
    wrong = [Thing(one.category, one.mask, one.box, 0.5, False) for one in objects]
    strip = ElementTree.fromstring(detection_strip(images, 0, {"one": objects, "other": wrong}))
    captions = [caption.text for caption in strip.iter("figcaption")]
    assert captions[0].startswith(f"ground truth: {len(objects)} object")
    assert captions[1:] == [f"one: {len(objects)} of {len(objects)} correct", f"other: 0 of {len(objects)} correct"]
