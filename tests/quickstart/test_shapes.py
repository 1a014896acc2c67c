"""The built-in data set: deterministic, split by photograph halves, annotated to the pixel."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from detcon_d2.quickstart import shapes
from detcon_d2.quickstart.shapes import SPLITS, ShapesConfig, draw_scene, generate_shapes
from detcon_d2.quickstart.shapes_render import CATEGORIES, draw_shape, render_scene
from detcon_d2.quickstart.shapes_textures import BACKGROUNDS, MATERIALS, load_half, procedural_texture

SMALL = ShapesConfig(seed=3, size=96, num_unlabeled=4, num_train=3, num_val=3)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, SMALL, workers=1, progress=False)
    return root


def _files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_same_seed_same_bytes_in_one_process_and_in_two(small_set: Path, tmp_path: Path) -> None:
    generate_shapes(tmp_path, SMALL, workers=2, progress=False)
    assert _files(tmp_path) == _files(small_set)


def test_another_seed_draws_other_images() -> None:
    a, b = (draw_scene(replace(SMALL, seed=seed), "train", 0).image for seed in (0, 1))
    assert not np.array_equal(a, b)


def test_no_two_images_of_the_set_are_equal(small_set: Path) -> None:
    images = [data for name, data in _files(small_set).items() if name.endswith(".jpg")]
    assert len(images) == len(set(images)) == 4 + 3 + 3


def test_an_image_does_not_depend_on_the_number_of_images() -> None:
    more = replace(SMALL, num_train=500)
    assert np.array_equal(draw_scene(SMALL, "train", 2).image, draw_scene(more, "train", 2).image)


@pytest.mark.parametrize("name", sorted({*BACKGROUNDS, *MATERIALS}))
def test_halves_of_a_photograph_share_no_pixel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = load_half.__wrapped__(name, "train").shape[:2]
    numbered = np.arange(1400 * 1200).reshape(1400, 1200) if height < width else np.arange(1400 * 1200).reshape(1200, 1400)
    numbered = np.repeat(numbered[..., None], 3, axis=2)
    monkeypatch.setattr("detcon_d2.quickstart.shapes_textures._read_photo", lambda _: numbered)
    train, val = (set(load_half.__wrapped__(name, half)[..., 0].ravel().tolist()) for half in ("train", "val"))
    assert train and val and not train & val


@pytest.mark.parametrize(("split", "half"), [("unlabeled", "train"), ("train", "train"), ("val", "val")])
def test_a_split_reads_one_half_only(split: str, half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set()
    real = load_half

    def spy(name: str, which: str) -> np.ndarray:
        asked.add(which)
        return real(name, which)

    monkeypatch.setattr("detcon_d2.quickstart.shapes_textures.load_half", spy)
    monkeypatch.setattr("detcon_d2.quickstart.shapes_textures._material_photo", lambda name, which: spy(name, which))
    for index in range(4):
        draw_scene(SMALL, split, index)
    assert asked == {half}


def test_only_one_photograph_of_the_stereo_pair_is_used() -> None:
    # The second shows, left of the cut, what the first shows right of it.
    assert sum("motorcycle" in name for name in (*BACKGROUNDS, *MATERIALS)) == 1


def test_every_photograph_is_in_the_installed_scikit_image_and_an_unknown_one_is_refused() -> None:
    for name in (*BACKGROUNDS, *MATERIALS):
        assert load_half(name, "val").shape[2] == 3
    with pytest.raises(ValueError, match="nosuchphoto"):
        load_half("nosuchphoto", "val")
    with pytest.raises(ValueError, match="test"):
        load_half("brick", "test")


def test_masks_are_the_visible_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # One flat colour for each thing, on black: the picture itself then says which pixels of an object are visible.
    def flat(*_: object) -> np.ndarray:
        return np.broadcast_to(next(colors), (128, 128, 3)).astype(np.float32)

    module = "detcon_d2.quickstart.shapes_render"
    monkeypatch.setattr(f"{module}.material_texture", flat)
    monkeypatch.setattr(f"{module}.procedural_texture", flat)
    monkeypatch.setattr(f"{module}.background_texture", lambda *_: np.zeros((128, 128, 3), np.float32))
    kernel = np.ones((3, 3), np.uint8)
    for seed in range(6):
        levels = np.random.default_rng(0).permutation(np.stack(np.meshgrid(*[[90, 145, 200, 255]] * 3), axis=-1).reshape(-1, 3))
        colors = iter(levels)
        scene = render_scene(128, "train", 0.8, np.random.default_rng(seed))
        assert len(scene.masks) >= 1 and scene.masks.sum(axis=0).max() <= 1
        for mask in scene.masks:
            color = np.median(scene.image[mask], axis=0)
            same = np.linalg.norm(scene.image - color, axis=-1) < 45
            inside = cv2.erode(mask.astype(np.uint8), kernel).astype(bool)
            outside = ~cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)
            assert same[inside].mean() > 0.99
            assert same[outside].mean() < 0.01


def test_every_object_shows_enough_of_itself() -> None:
    for index in range(30):
        scene = draw_scene(ShapesConfig(), "unlabeled", index)
        assert all(mask.sum() >= 100 for mask in scene.masks)


def test_json_holds_exactly_the_drawn_masks_boxes_and_areas(small_set: Path) -> None:
    for split in SPLITS:
        data = json.loads((small_set / f"annotations/instances_{split}.json").read_text())
        assert [category["name"] for category in data["categories"]] == list(CATEGORIES)
        for image in data["images"]:
            scene = draw_scene(SMALL, split, image["id"] - 1)
            found = [a for a in data["annotations"] if a["image_id"] == image["id"]]
            assert [a["category_id"] - 1 for a in found] == list(scene.categories)
            for annotation, mask in zip(found, scene.masks, strict=True):
                assert np.array_equal(coco_mask.decode(annotation["segmentation"]).astype(bool), mask)
                y, x = np.nonzero(mask)
                assert annotation["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
                assert annotation["area"] == mask.sum()


def test_pycocotools_loads_every_split_and_every_image_is_there(small_set: Path) -> None:
    for split in SPLITS:
        paths = shapes.split_paths(small_set, split)
        coco = COCO(str(paths.annotations))
        assert len(coco.imgs) == SMALL.num_images(split)
        assert len(coco.anns) > 0
        for image in coco.imgs.values():
            read = cv2.imread(str(paths.images / image["file_name"]))
            assert read.shape == (image["height"], image["width"], 3)


@pytest.mark.parametrize("agreement", [0.0, 0.8, 1.0])
def test_material_agrees_with_the_category_as_often_as_stated(agreement: float) -> None:
    config = ShapesConfig(size=48, agreement=agreement)
    scenes = [draw_scene(config, "train", i) for i in range(150)]
    pairs = [pair for scene in scenes for pair in zip(scene.categories, scene.materials)]
    found = np.mean([category == material for category, material in pairs])
    expected = agreement + (1 - agreement) / len(MATERIALS)
    assert abs(found - expected) <= 3 * np.sqrt(expected * (1 - expected) / len(pairs)) + 1e-9


def test_unlabelled_images_can_agree_less_than_labelled_ones() -> None:
    config = ShapesConfig(agreement=0.8, unlabeled_agreement=0.5)
    assert [config.probability(split) for split in SPLITS] == [0.5, 0.8, 0.8]
    assert [ShapesConfig(agreement=0.0).probability(split) for split in SPLITS] == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="agreement"):
        ShapesConfig(agreement=1.5)


def test_a_restart_draws_only_what_is_missing(small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = _files(small_set)
    generate_shapes(tmp_path, SMALL, workers=1, progress=False)
    # As an interruption leaves it: some images of a split, and no json.
    (tmp_path / "annotations/instances_val.json").unlink()
    (tmp_path / "images/val/000001.jpg").unlink()
    drawn = []
    real = shapes.draw_scene

    def spy(config: ShapesConfig, split: str, index: int) -> shapes.Scene:
        drawn.append(split)
        return real(config, split, index)

    monkeypatch.setattr(shapes, "draw_scene", spy)
    generate_shapes(tmp_path, SMALL, workers=1, progress=False)
    assert drawn == ["val"] * 3
    assert _files(tmp_path) == complete
    generate_shapes(tmp_path, SMALL, workers=1, progress=False)
    assert len(drawn) == 3


def test_a_folder_of_another_configuration_is_refused(small_set: Path) -> None:
    with pytest.raises(ValueError, match=r"Name another folder, or delete this one"):
        generate_shapes(small_set, replace(SMALL, seed=4), workers=1, progress=False)


@pytest.mark.parametrize("category", CATEGORIES)
def test_shapes_scale_and_stay_inside_their_circle(category: str) -> None:
    small, large = (draw_shape(category, 128, (64.0, 64.0), radius, 0.3) for radius in (15.0, 30.0))
    assert large.sum() == pytest.approx(4 * small.sum(), rel=0.03)
    y, x = np.nonzero(large)
    assert np.hypot(x + 0.5 - 64, y + 0.5 - 64).max() < 1.35 * 30
    assert 0.1 < large.sum() / (np.pi * 30**2) <= 1.05


def test_the_ring_has_a_hole_and_the_disc_has_none() -> None:
    assert draw_shape("ring", 64, (32.0, 32.0), 20.0, 0.0)[32, 32] == 0
    assert draw_shape("disc", 64, (32.0, 32.0), 20.0, 0.0)[32, 32] == 1


def test_categories_look_different() -> None:
    drawn = [draw_shape(category, 64, (32.0, 32.0), 24.0, 0.0) >= 0.5 for category in CATEGORIES]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert (a & b).sum() / (a | b).sum() < 0.9


def test_procedural_textures_are_colours_in_range_and_not_flat() -> None:
    for seed in range(12):
        texture = procedural_texture(64, np.random.default_rng(seed))
        assert texture.shape == (64, 64, 3) and texture.min() >= 0 and texture.max() <= 255 and texture.std() > 2
