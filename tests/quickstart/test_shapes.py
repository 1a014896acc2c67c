"""The built-in data set: deterministic, split by halves of photographs, annotated to the pixel."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from detcon_d2.quickstart import shapes, shapes_textures
from detcon_d2.quickstart.shapes import SPLITS, ShapesConfig, draw_scene, generate_shapes
from detcon_d2.quickstart.shapes_render import CATEGORIES, draw_shape, render_scene
from detcon_d2.quickstart.shapes_textures import BACKGROUNDS, MATERIALS, load_half

SMALL = ShapesConfig(seed=3, size=96, num_unlabeled=4, num_train=3, num_val=3)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, SMALL, workers=1, progress=False)
    return root


def _files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_image_depends_on_its_seed_split_and_index_only(small_set, tmp_path):
    generate_shapes(tmp_path, SMALL, workers=2, progress=False)
    assert _files(tmp_path) == _files(small_set)
    images = [data for name, data in _files(small_set).items() if name.endswith(".jpg")]
    assert len(images) == len(set(images)) == 4 + 3 + 3
    first, more, other = (draw_scene(config, "train", 2).image for config in (SMALL, replace(SMALL, num_train=500), replace(SMALL, seed=4)))
    assert np.array_equal(first, more) and not np.array_equal(first, other)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
@pytest.mark.parametrize("name", ["brick", "retina"])  # retina is cropped first
def test_halves_of_a_photograph_share_no_pixel(name, shape, monkeypatch):
    numbered = np.arange(shape[0] * shape[1]).reshape(*shape, 1).repeat(3, axis=2)
    monkeypatch.setattr(shapes_textures, "_read_photo", lambda _: numbered)
    train, val = (set(load_half.__wrapped__(name, half).ravel().tolist()) for half in ("train", "val"))
    assert train and val and not train & val


@pytest.mark.parametrize(("split", "half"), [("unlabeled", "train"), ("train", "train"), ("val", "val")])
def test_a_split_reads_one_half_only(split, half, monkeypatch):
    asked = set()
    real = load_half

    def spy(name: str, which: str) -> np.ndarray:
        asked.add(which)
        return real(name, which)

    monkeypatch.setattr(shapes_textures, "load_half", spy)
    monkeypatch.setattr(shapes_textures, "_material_photo", spy)
    for index in range(4):
        draw_scene(SMALL, split, index)
    assert asked == {half}


def test_every_photograph_is_in_the_installed_scikit_image_and_an_unknown_one_is_refused():
    assert all(load_half(name, "val").shape[2] == 3 for name in (*BACKGROUNDS, *MATERIALS))
    # The second of the stereo pair would show, left of the cut, what the first shows right of it.
    assert sum("motorcycle" in name for name in (*BACKGROUNDS, *MATERIALS)) == 1
    with pytest.raises(ValueError, match="nosuchphoto"):
        load_half("nosuchphoto", "val")


def test_masks_are_the_visible_parts(monkeypatch):
    # With one flat colour for each thing, on black, the image itself shows which pixels of an object are visible.
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
            assert mask.sum() >= 100
            same = np.linalg.norm(scene.image - np.median(scene.image[mask], axis=0), axis=-1) < 45
            inside = cv2.erode(mask.astype(np.uint8), kernel).astype(bool)
            outside = ~cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)
            assert same[inside].mean() > 0.99 and same[outside].mean() < 0.01


@pytest.mark.parametrize("split", SPLITS)
def test_pycocotools_reads_exactly_the_drawn_masks_boxes_and_areas(split, small_set):
    paths = shapes.split_paths(small_set, split)
    coco = COCO(str(paths.annotations))
    assert len(coco.imgs) == SMALL.num_images(split) and [category["name"] for category in coco.cats.values()] == list(CATEGORIES)
    for image in coco.imgs.values():
        assert cv2.imread(str(paths.images / image["file_name"])).shape == (image["height"], image["width"], 3)
        scene, found = draw_scene(SMALL, split, image["id"] - 1), coco.imgToAnns[image["id"]]
        assert [annotation["category_id"] - 1 for annotation in found] == list(scene.categories)
        for annotation, mask in zip(found, scene.masks, strict=True):
            assert np.array_equal(coco_mask.decode(annotation["segmentation"]).astype(bool), mask)
            y, x = np.nonzero(mask)
            assert annotation["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert annotation["area"] == mask.sum()


@pytest.mark.parametrize("agreement", [0.0, 0.8, 1.0])
def test_material_agrees_with_the_category_as_often_as_stated(agreement):
    config = ShapesConfig(size=48, agreement=agreement)
    scenes = [draw_scene(config, "train", i) for i in range(150)]
    pairs = [pair for scene in scenes for pair in zip(scene.categories, scene.materials)]
    found = np.mean([category == material for category, material in pairs])
    expected = agreement + (1 - agreement) / len(MATERIALS)
    assert abs(found - expected) <= 3 * np.sqrt(expected * (1 - expected) / len(pairs)) + 1e-9


def test_a_restart_draws_only_what_is_missing_and_another_configuration_is_refused(small_set, tmp_path, monkeypatch):
    generate_shapes(tmp_path, SMALL, workers=1, progress=False)
    # As an interruption leaves it: some images of a split, and no json.
    (tmp_path / "annotations/instances_val.json").unlink()
    (tmp_path / "images/val/000001.jpg").unlink()
    drawn = []
    monkeypatch.setattr(shapes, "draw_scene", lambda config, split, index: drawn.append(split) or draw_scene(config, split, index))
    for _ in range(2):
        generate_shapes(tmp_path, SMALL, workers=1, progress=False)
        assert drawn == ["val"] * 3
    assert _files(tmp_path) == _files(small_set)
    with pytest.raises(ValueError, match="Name another folder, or delete this one"):
        generate_shapes(tmp_path, replace(SMALL, agreement=0.5), workers=1, progress=False)
    with pytest.raises(ValueError, match="expected a probability"):
        ShapesConfig(agreement=1.5)


@pytest.mark.parametrize("category", CATEGORIES)
def test_shapes_scale_and_stay_inside_their_circle(category):
    small, large = (draw_shape(category, 128, (64.0, 64.0), radius, 0.3) for radius in (15.0, 30.0))
    assert large.sum() == pytest.approx(4 * small.sum(), rel=0.03)
    y, x = np.nonzero(large)
    assert np.hypot(x + 0.5 - 64, y + 0.5 - 64).max() < 1.35 * 30
    assert 0.1 < large.sum() / (np.pi * 30**2) <= 1.05
    assert (large[64, 64] == 0) == (category in ("ring", "crescent"))
