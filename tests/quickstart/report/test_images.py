"""Pictures hold their pixels themselves, and outlines run where the masks end."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from detcon_d2.quickstart.report.images import data_uri, detection_strip, draw_things, mask_path, picture
from detcon_d2.quickstart.report.inputs import LabelledImages, Thing
from tests.quickstart.fake import validation_paths


def decode(uri: str) -> np.ndarray:
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_an_embedded_picture_shows_the_image_in_rgb():
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, :, 0] = 200
    shown = decode(data_uri(image)).astype(int)
    assert shown.shape == (16, 24, 3)
    assert abs(shown - image).max() < 12


def loops(mask: np.ndarray) -> list[np.ndarray]:
    return [np.array(re.findall(r"[-\d.]+", loop), float).reshape(-1, 2) for loop in mask_path(mask).split("M")[1:]]


def area(loop: np.ndarray) -> float:
    x, y = loop.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def test_the_outline_encloses_the_area_of_the_mask():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    (loop,) = loops(mask)
    assert area(loop) == pytest.approx(600, rel=0.05)
    np.testing.assert_allclose(loop.min(axis=0), [20, 10], atol=0.3)
    np.testing.assert_allclose(loop.max(axis=0), [50, 30], atol=0.3)


def test_a_hole_and_a_second_piece_are_loops_of_their_own():
    mask = np.zeros((40, 60), bool)
    mask[5:35, 5:35] = True
    mask[15:25, 15:25] = False
    mask[5:15, 45:55] = True
    assert sorted(round(area(loop) / 100) for loop in loops(mask)) == [1, 1, 9]


def test_an_empty_mask_has_no_outline():
    assert mask_path(np.zeros((4, 4), bool)) == ""


def things(right: bool, score: float | None) -> list[Thing]:
    mask = np.zeros((32, 32), bool)
    mask[4:20, 4:20] = True
    return [Thing(3, mask, (4, 4, 16, 16), score, right)]


def test_wrong_detections_are_dashed_and_scores_are_written():
    right, wrong = (draw_things(things(value, 0.875), {3: "a<b"}, (32, 32)) for value in (True, False))
    assert "dasharray" in wrong and "dasharray" not in right
    assert "a&lt;b 0.88" in right


def test_labels_stay_inside_the_image():
    for box in ((-30.0, -30.0, 10.0, 10.0), (60.0, 60.0, 40.0, 40.0)):
        drawn = draw_things([Thing(1, np.ones((32, 32), bool), box)], {1: "disc"}, (32, 32))
        x, y = (float(re.search(rf'<text class="tag"[^>]* {axis}="([\d.-]+)"', drawn).group(1)) for axis in "xy")
        assert 0 <= x <= 32 and 0 <= y <= 32


def test_a_picture_is_well_formed_and_captioned():
    figure = ElementTree.fromstring(picture(np.zeros((8, 8, 3), np.uint8), (16, 16), "", "a < b & c"))
    assert figure.find("figcaption").text == "a < b & c"
    assert figure.find("svg").get("viewBox") == "0 0 16 16"


def test_large_photographs_are_embedded_smaller():
    figure = ElementTree.fromstring(picture(np.zeros((900, 1800, 3), np.uint8), (900, 1800), "", "x"))
    assert decode(figure.find("svg/image").get("href")).shape[:2] == (320, 640)
    assert figure.find("svg/image").get("width") == "1800"


def test_a_strip_counts_what_each_arm_found(quickstart):
    images = LabelledImages(*validation_paths(quickstart))
    objects = images.objects(0)
    wrong = [Thing(one.category, one.mask, one.box, 0.5, False) for one in objects]
    strip = ElementTree.fromstring(detection_strip(images, 0, {"one": objects, "other": wrong}))
    number = len(objects)
    captions = [caption.text for caption in strip.iter("figcaption")]
    assert captions[1:] == [f"one: {number} of {number} right", f"other: 0 of {number} right"]
    assert captions[0].startswith(f"ground truth: {number} object")
