"""Masks of other tools: json of COCO and SAM, PNGs of labels, and what is wrong with them."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from detcon_d2.masks import build_generator
from detcon_d2.masks.generators import imported

RNG = np.random.default_rng(0)
IMAGE = np.zeros((6, 8, 3), np.uint8)
LARGE, SMALL = np.s_[1:5, 1:7], np.s_[2:4, 3:5]
EXPECTED = np.zeros((6, 8), int)
EXPECTED[LARGE], EXPECTED[SMALL] = 1, 2


def rle(where: tuple, shape: tuple[int, int] = (6, 8)) -> dict:
    mask = np.zeros(shape, np.uint8, order="F")
    mask[where] = 1
    encoded = coco_mask.encode(mask)
    return {"size": list(shape), "counts": encoded["counts"].decode()}


def record(key: str = "a/000.jpg", image_id: object = None) -> dict:
    return {"key": key, "file_name": f"/images/{key}", "image_id": key if image_id is None else image_id}


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_png(path: Path, labels: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if mode == "P":
        image = image.convert("L")
        image.putpalette([7, 7, 7] * 256)
    image.save(path)
    return path.parents[1]


def results(image_id: object) -> list[dict]:
    return [{"image_id": image_id, "category_id": 1, "score": 0.5, "segmentation": rle(where)} for where in (LARGE, SMALL)]


@pytest.mark.parametrize(
    ("image_id", "key", "own_id"),
    [(37, "a/x.jpg", 37), ("37", "a/x.jpg", 37), ("a/x.jpg", "a/x.jpg", None), ("a/x", "a/x.jpg", None), (37, "000000000037.jpg", None)],
)
def test_results_are_found_by_id_key_or_number(tmp_path, image_id, key, own_id):
    path = write_json(tmp_path / "r.json", results(image_id) + [{"image_id": 99, "segmentation": rle(np.s_[:, :])}])
    label_map = build_generator("imported", masks=str(path))(IMAGE, RNG, record(key, own_id))
    assert label_map.dtype == np.uint16
    np.testing.assert_array_equal(label_map, EXPECTED)


def test_instances_are_found_by_file_name_and_may_be_none(tmp_path):
    annotations = [
        {"image_id": 5, "id": 1, "segmentation": rle(LARGE)},
        {"image_id": 5, "id": 2, "segmentation": [[3, 2, 5, 2, 5, 4, 3, 4]]},
    ]
    content = {"images": [{"id": 5, "file_name": "a/000.jpg"}, {"id": 6, "file_name": "a/001.jpg"}], "annotations": annotations}
    generator = build_generator("imported", masks=str(write_json(tmp_path / "i.json", content)))
    np.testing.assert_array_equal(generator(IMAGE, RNG, record()), EXPECTED)
    assert not generator(IMAGE, RNG, record("a/001.jpg")).any()
    with pytest.raises(ValueError, match=r"no masks of 000\.jpg .* 2 images such as 'a/000\.jpg'; expected the key as file_name"):
        generator(IMAGE, RNG, record("000.jpg"))


@pytest.mark.parametrize("listed", [False, True])
def test_a_json_an_image_as_sam_writes_it(tmp_path, listed):
    masks = [{"segmentation": rle(where), "area": 1, "bbox": [0, 0, 1, 1], "predicted_iou": 0.9} for where in (LARGE, SMALL)]
    write_json(tmp_path / "a" / "000.json", masks if listed else {"image": {"width": 8, "height": 6}, "annotations": masks})
    np.testing.assert_array_equal(build_generator("imported", masks=str(tmp_path))(IMAGE, RNG, record()), EXPECTED)


def test_pixels_without_a_mask_are_a_region_or_none(tmp_path):
    write_json(tmp_path / "a" / "000.json", {"annotations": [{"segmentation": rle(SMALL)}]})
    for background, expected in (("region", 0), ("none", 65535)):
        label_map = build_generator("imported", masks=str(tmp_path), background=background)(IMAGE, RNG, record())
        assert np.unique(label_map).tolist() == [expected, 1] if expected == 0 else [1, expected]


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint8, None), (np.uint16, None), (np.uint8, "P")])
def test_png_labels_are_kept(tmp_path, dtype, mode):
    labels = (100 * EXPECTED).astype(dtype)
    if dtype == np.uint16:
        labels[0, 0] = 65535
    for name in ("000.png", "000.jpg.png"):
        root = write_png(tmp_path / name / "a" / name, labels, mode)
        np.testing.assert_array_equal(build_generator("imported", masks=str(root))(IMAGE, RNG, record()), labels)


def test_rgb_codes_are_numbered_in_their_order(tmp_path):
    colors = np.array([[0, 0, 0], [5, 0, 1], [200, 3, 0]], np.uint8)  # 0, 65541, 968
    root = write_png(tmp_path / "a" / "000.png", colors[EXPECTED])
    np.testing.assert_array_equal(build_generator("imported", masks=str(root))(IMAGE, RNG, record()), np.array([0, 2, 1])[EXPECTED])


def test_an_image_is_not_taken_for_its_own_masks(tmp_path):
    root = write_png(tmp_path / "a" / "000.png", EXPECTED.astype(np.uint8))
    with pytest.raises(ValueError, match=r"found no masks of a/000\.png"):
        build_generator("imported", masks=str(root))(IMAGE, RNG, record("a/000.png") | {"file_name": str(root / "a" / "000.png")})


def test_the_file_is_read_once_and_never_pickled(tmp_path, monkeypatch):
    path = write_json(tmp_path / "r.json", results(37) + 500 * [{"image_id": 1, "segmentation": rle(SMALL)}])
    reads = []
    read = imported._read_json
    monkeypatch.setattr(imported, "_read_json", lambda path: reads.append(path) or read(path))
    generator = build_generator("imported", masks=str(path))
    for _ in range(3):
        copy = pickle.loads(pickle.dumps(generator))
        np.testing.assert_array_equal(copy(IMAGE, RNG, record(image_id=37)), EXPECTED)
    assert len(reads) == 1 and len(pickle.dumps(generator)) < 1000


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"masks": "{tmp}/nothing"}, "found nothing at .*nothing"),
        ({"masks": "{tmp}", "mask_format": "voc"}, "found mask_format 'voc'; expected one of auto, coco, sam, png"),
        ({"masks": "{tmp}", "background": "void"}, "found background 'void'; expected one of region, none"),
        ({"masks": "{tmp}", "mask_format": "coco"}, "expects one json, found a folder"),
        ({"masks": "{tmp}/r.json", "mask_format": "png"}, "expects a folder, found a file"),
    ],
)
def test_wrong_parameters_are_refused_at_once(tmp_path, params, message):
    write_json(tmp_path / "r.json", [])
    with pytest.raises(ValueError, match=message):
        build_generator("imported", **{name: value.format(tmp=tmp_path) for name, value in params.items()})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read .*expected a json"),
        ({"annotations": 3}, 'no list "annotations"'),
        ([{"segmentation": rle(np.s_[:, :], (8, 6))}], r"masks of a/000\.jpg in .*RLE of size \[8, 6\]; expected the image's \[6, 8\]"),
        ([{"segmentation": {"size": [6, 8], "counts": "zzzz"}}], r"annotation \(no id\): Invalid RLE"),
        ([{"area": 3}], "found segmentation None"),
    ],
)
def test_a_damaged_json_is_named(tmp_path, content, message):
    path = write_json(tmp_path / "a" / "000.json", content)
    if isinstance(content, str):
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        build_generator("imported", masks=str(tmp_path))(IMAGE, RNG, record())


def test_a_json_of_another_kind_is_named(tmp_path):
    for index, content in enumerate(([{"segmentation": rle(SMALL)}], {"image": {}, "annotations": []}, {"images": [{"id": 1}]})):
        path = write_json(tmp_path / f"{index}.json", content)
        with pytest.raises(ValueError, match=rf"{index}\.json lacks '.*'; expected a list of image_id and segmentation"):
            build_generator("imported", masks=str(path))(IMAGE, RNG, record())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((8, 6), np.uint8), r"is 6 x 8 \(width x height\); expected 8 x 6"),
        (np.zeros((6, 8, 4), np.uint8), "found an image of mode RGBA"),
        (None, "cannot read .*write it again"),
    ],
)
def test_a_png_that_does_not_fit_is_named(tmp_path, labels, message):
    path = tmp_path / "a" / "000.png"
    if labels is None:
        path.parent.mkdir()
        path.write_bytes(b"\x89PNG\r\n")
    else:
        write_png(path, labels)
    with pytest.raises(ValueError, match=message):
        build_generator("imported", masks=str(tmp_path))(IMAGE, RNG, record())
