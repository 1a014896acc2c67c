"""Each choice follows from what was seen."""

import math

import numpy as np
import pytest

from detcon_d2.engine.setup import load_config
from detcon_d2.recipe.budget import Speed, plan
from detcon_d2.recipe.command import batch_size
from detcon_d2.recipe.config import Choice, chosen_config, write_config
from detcon_d2.recipe.detector import MATCH, choose_anchors, choose_detector, choose_scale
from detcon_d2.recipe.look import Images, Objects, nearest_mean_accuracy
from detcon_d2.recipe.regions import FEW, MOST, NEARLY_ALL, box_overlaps, try_regions
from detcon_d2.recipe.views import CONTRAST, CPU, GPU, HALF_A_CELL, cells_across, choose_colors, choose_views

NAN = float("nan")


def objects_of(side: float = 40, image: float = 200, **values: object) -> Objects:
    """Square objects of a side in square images."""
    boxes = np.tile(np.array([side, side, image, image], float), (50, 1))
    known = {"train": "coco:a,b", "test": "coco:c,b", "classes": ["one", "two"], "train_images": 10, "test_images": 5, "boxes": boxes}
    known["labels"] = np.arange(50) % 2
    return Objects(**known | {"most": 8, "masks": True, "coded": False, "color_accuracy": NAN, "findings": [], "sample": []} | values)


def images_of(*sample: np.ndarray, grey: float = 0.0) -> Images:
    height, width = sample[0].shape[:2]
    names = [f"{number}.png" for number in range(len(sample))]
    return Images("folder:/images", [{}] * 400, list(sample), names, height, width, grey, 100.0)


def patches(rng: np.random.Generator, low: int, high: int) -> np.ndarray:
    """128 px of flat rectangles."""
    image = np.full((128, 128, 3), low, np.uint8)
    for y, x in rng.integers(0, 100, (12, 2)):
        image[y : y + 24, x : x + 24] = rng.integers(low, high, 3)
    return image


def values(choices: list[Choice]) -> dict[str, object]:
    return {choice.key: choice.value for choice in choices}


def test_a_written_config_is_the_chosen_one_with_each_reason_beside_its_key(tmp_path):
    choices = [
        Choice("DETCON.VIEWS.SIZE", 97, "short reason"),
        Choice("SOLVER.BASE_LR", 1e-6, "a rate without a point"),
        Choice("DETCON.VIEWS.CROP_AREA", (0.1, 0.5), "a long reason " * 20),
        Choice("DATASETS.TRAIN", ('folder:/a "b", c: #d',), "a path"),
        Choice("DETCON.TEST.EARLY_STOPPING", 0, "a default that was chosen"),
    ]
    write_config(tmp_path / "config.yaml", "Title.", CPU.pretraining, choices)
    assert load_config(str(tmp_path / "config.yaml"), []) == chosen_config(CPU.pretraining, choices)
    text = (tmp_path / "config.yaml").read_text()
    assert "SIZE: 97  # short reason\n" in text and "EARLY_STOPPING: 0  # a default that was chosen\n" in text
    assert max(map(len, text.splitlines())) <= 140 and text.replace("\n    # ", " ").count("a long reason") == 20


@pytest.mark.parametrize("setup", [CPU, CONTRAST, GPU])
@pytest.mark.parametrize("side", [2, 10, 20, 40, 150])
def test_the_median_object_has_half_a_cell_in_the_cheapest_views_that_give_it(setup, side):
    found = values(choose_views(setup, objects_of(side)))
    stride = 16 if "MODEL.RESNETS.RES5_DILATION" in found else setup.strides[0]
    across = cells_across(side / 200, found["DETCON.VIEWS.SIZE"], found["DETCON.VIEWS.CROP_AREA"], stride)
    assert (across >= HALF_A_CELL) == (side > 2)
    if side == 150:
        assert (found["DETCON.VIEWS.SIZE"], found["DETCON.VIEWS.CROP_AREA"]) == (setup.sides[0], (0.15, 1.0))
        assert stride == setup.strides[0]


def test_colors_are_weaker_where_they_would_make_views_constant():
    rng = np.random.default_rng(0)
    strong = values(choose_colors(CPU, images_of(*(patches(rng, 20, 250) for _ in range(12))), None, [])[0])
    choices, figures = choose_colors(CPU, images_of(*(patches(rng, 0, 12) for _ in range(12))), None, [])
    assert strong["DETCON.AUG.CONTRAST"] == 0.4 and strong["DETCON.AUG.OPERATORS"] == "torchvision"
    assert values(choices)["DETCON.AUG.CONTRAST"] < 0.4 and "more makes views constant" in choices[0].reason
    assert figures.constant_crops is not None


@pytest.mark.parametrize(
    ("grey", "accuracy", "hue", "gray_prob"), [(0.0, NAN, 0.1, (0.2, 0.2)), (0.0, 0.95, 0.025, (0.0, 0.0)), (1.0, 0.95, 0.0, (0.0, 0.0))]
)
def test_colors_that_tell_the_class_are_kept_and_those_of_grey_images_left_out(grey, accuracy, hue, gray_prob):
    images = images_of(patches(np.random.default_rng(0), 20, 250), grey=grey)
    found = values(choose_colors(CPU, images, objects_of(color_accuracy=accuracy), [])[0])
    assert (found["DETCON.AUG.HUE"], found["DETCON.AUG.GRAY_PROB"]) == (hue, gray_prob)


def test_the_nearest_mean_tells_classes_by_colour_only_where_it_can():
    rng = np.random.default_rng(0)
    classes = np.arange(400) // 2 % 2
    assert nearest_mean_accuracy(rng.normal(size=(400, 3)) + 9 * classes[:, None], classes) == 1
    assert nearest_mean_accuracy(rng.normal(size=(400, 3)), classes) == pytest.approx(0.5, abs=0.1)
    assert math.isnan(nearest_mean_accuracy(rng.normal(size=(400, 3)), np.zeros(400, int)))


def test_the_chosen_regions_are_the_largest_of_which_nearly_as_many_keep_a_cell():
    rng = np.random.default_rng(0)
    images = images_of(*(patches(rng, 20, 250) for _ in range(4)))
    candidates, chosen = try_regions(chosen_config(CPU.pretraining, []), images, None)
    kept = [one.figures.kept for one in candidates]
    assert kept[chosen] >= NEARLY_ALL * max(kept) > max([0, *kept[chosen + 1 :]])
    sizes = [one.generator.params()["min_size"] for one in candidates]
    assert sizes == sorted(sizes) and all(one.overlap is None for one in candidates)


def test_a_smaller_scale_is_tried_where_few_regions_have_a_cell(monkeypatch):
    cfg, images = chosen_config(CPU.pretraining, []), images_of(patches(np.random.default_rng(0), 20, 250))
    usual, _ = try_regions(cfg, images, None)
    monkeypatch.setattr("detcon_d2.recipe.regions.FEW", max(one.figures.kept for one in usual) + 1)
    found, chosen = try_regions(cfg, images, None)
    ratios = [one.generator.params()["scale"] / one.generator.params()["min_size"] for one in found]
    assert ratios == pytest.approx([0.1] * 4 + [0.3] * 4 + [3.0] * 4)
    assert found[chosen].figures.kept >= NEARLY_ALL * max(one.figures.kept for one in found)


def test_the_chosen_regions_are_those_that_follow_the_objects():
    """Soft discs on a soft ground: at the usual scale they are one region with it."""
    y, x = np.mgrid[:128, :128]
    boxes = np.array([(16, 16, 48, 48), (72, 20, 104, 52), (40, 76, 72, 108)], np.float32)
    light = sum(np.clip(16 - np.hypot(x - (x0 + x1) / 2, y - (y0 + y1) / 2), 0, 4) for x0, y0, x1, y1 in boxes)
    image = (150 + y / 8 + 2 * light + np.random.default_rng(0).normal(0, 2, (128, 128))).astype(np.uint8)[..., None].repeat(3, 2)
    candidates, chosen = try_regions(chosen_config(CPU.pretraining, []), images_of(image), objects_of(sample=[(image, boxes)]))
    best = max(one.overlap for one in candidates if one.figures.kept >= FEW)
    near = [one for one in candidates if one.figures.kept >= FEW and one.overlap >= MOST * best]
    assert len(candidates) == 15 and best > 0.8 > 0.3 > candidates[-1].overlap
    assert candidates[chosen].figures.regions == min(one.figures.regions for one in near)
    assert f"objects {candidates[chosen].overlap:.2f}" in candidates[chosen].line()


def test_a_box_overlaps_with_the_box_around_a_region():
    label_map = np.full((20, 20), 65535, np.uint16)
    label_map[2:6, 3:9], label_map[10:14, 10:12], label_map[12:14, 12:18] = 7, 0, 0
    boxes = np.array([(3, 2, 9, 6), (10, 10, 18, 12), (0, 16, 4, 20)], np.float32)
    assert box_overlaps(label_map, boxes) == pytest.approx([1, 0.5, 0])
    assert (box_overlaps(np.full((20, 20), 65535, np.uint16), boxes) == 0).all()


def test_anchors_fit_the_boxes_at_the_size_of_the_input():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.normal((side, side * 2), side / 20, (100, 2)) for side in (10, 20, 40, 80)])
    anchors = choose_anchors(boxes, 4)
    assert anchors.sizes == sorted(anchors.sizes) and anchors.ratios[1] == pytest.approx(2, abs=0.1) and anchors.matched > 0.8
    same = choose_anchors(np.full((9, 2), 30.0), 5)
    assert same.sizes[0] == 30 and len(set(same.sizes)) == 5 and same.matched == 1 and MATCH == 0.7


@pytest.mark.parametrize(("side", "factor"), [(100, 0.5), (16, 1.0), (8, 2.0)])
def test_the_input_is_as_small_as_the_objects_allow(side, factor):
    found, reason = choose_scale(objects_of(side))
    assert found == factor and f"class {factor * side:.0f} (" in reason
    mixed = objects_of()
    mixed.boxes[mixed.labels == 1, :2] = side
    assert choose_scale(mixed)[0] >= choose_scale(objects_of())[0]


@pytest.mark.parametrize(("setup", "levels"), [(CPU, 4), (CONTRAST, 4), (GPU, 5)])
def test_the_detector_has_an_anchor_size_per_level_of_its_base(setup, levels):
    found = values(choose_detector(setup, images_of(np.zeros((200, 200, 3), np.uint8)), objects_of()))
    base = chosen_config(setup.detector, []).MODEL.RPN.IN_FEATURES
    assert len(found["MODEL.ANCHOR_GENERATOR.SIZES"]) == levels == len(base)


def test_the_detector_is_that_of_the_annotations():
    images = images_of(np.zeros((200, 200, 3), np.uint8))
    masks = values(choose_detector(CPU, images, objects_of(most=70, coded=True)))
    boxes = values(choose_detector(CPU, images, objects_of(masks=False)))
    assert masks["MODEL.MASK_ON"] and masks["INPUT.MASK_FORMAT"] == "bitmask" and masks["TEST.DETECTIONS_PER_IMAGE"] == 140
    assert not boxes["MODEL.MASK_ON"] and "INPUT.MASK_FORMAT" not in boxes and boxes["MODEL.ROI_HEADS.NUM_CLASSES"] == 2
    assert masks["DATASETS.TRAIN"] == ("coco:a,b",) and masks["DATASETS.TEST"] == ("coco:c,b",)


@pytest.mark.parametrize("hours", [0.2, 1.0, 8.0])
def test_a_plan_fits_the_hours_and_gives_pretraining_what_the_detectors_leave(hours):
    found = plan(hours, 2000, 64, Speed(0.6, 10), 30, Speed(0.4, 10), 54, 240)
    assert sum(found.seconds.values()) <= hours * 3600 and found.epochs == int(found.epochs)
    assert found.iterations <= 300 and found.seconds["pretraining"] > hours * 3600 / 2
    assert plan(8.0, 2000, 64, Speed(0.6, 10), 30).iterations == 0


def test_a_budget_that_is_too_small_is_refused_with_one_that_is_not():
    with pytest.raises(ValueError, match=r"leave .* less than an epoch .* at least (\S+) hours") as error:
        plan(0.01, 2000, 64, Speed(0.6, 10), 30)
    needed = float(str(error.value).split("at least ")[1].split()[0])
    assert plan(needed + 0.01, 2000, 64, Speed(0.6, 10), 30).epochs >= 4


def test_batches_leave_several_in_an_epoch():
    assert [batch_size(CPU, count) for count in (2000, 256, 100, 9)] == [32, 32, 16, 2]
    assert batch_size(GPU, 2000) == 256
