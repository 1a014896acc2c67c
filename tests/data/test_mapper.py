"""A record and a position become two aligned views; nothing else plays a part."""

import numpy as np
import pytest
import torch
from PIL import Image

from detcon_d2.data import load_training_records
from detcon_d2.views.position import position_rng
from tests.data.samples import mapper_of
from tests.painted import numbered_pixels, painted_image


def leaves(value: object, path: str = "") -> dict[str, object]:
    """Every tensor and plain value of a nested sample, by its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {key: leaf for name, item in items for key, leaf in leaves(item, f"{path}/{name}").items()}
    return found if isinstance(value, dict | list) else {path: value}


def assert_equal_samples(a: object, b: object) -> None:
    """Bit-exact equality of two outputs of a mapper, or of lists of them."""
    one, two = leaves(a), leaves(b)
    assert one.keys() == two.keys() and one
    for path, value in one.items():
        assert torch.equal(value, two[path]) if torch.is_tensor(value) else value == two[path], path


def test_output_is_what_the_model_expects(painted_set, make_cfg):
    cfg = make_cfg(painted_set)
    record = load_training_records(cfg)[3]
    before = dict(record)
    sample = mapper_of(cfg)(record, 17)
    assert record == before
    assert sample.keys() == {"views", "file_name", "image_id", "width", "height", "position", "index", "label"}
    assert (sample["position"], sample["file_name"], sample["image_id"], sample["label"]) == (
        17,
        record["file_name"],
        record["image_id"],
        0,
    )
    with Image.open(record["file_name"]) as image:
        assert (sample["width"], sample["height"]) == image.size
    assert len(sample["views"]) == 2
    for view in sample["views"]:
        assert view["image"].dtype == torch.float32 and view["image"].shape == (3, 32, 32) and view["image"].is_contiguous()
        assert view["cells"].dtype == torch.int32 and view["cells"].shape == (32, 32)
        assert view["box"].shape == (4,) and isinstance(view["flip"], bool)
        assert view["draws"].dtype == torch.float32 and view["draws"].shape == (16,)
        assert 0 <= view["draws"].min() and view["draws"].max() < 1
        assert 0 <= view["image"].min() and view["image"].max() <= 1
    assert not torch.equal(sample["views"][0]["draws"], sample["views"][1]["draws"])
    assert not torch.equal(sample["views"][0]["box"], sample["views"][1]["box"])


def test_pixels_and_regions_of_both_views_come_from_the_same_places(painted_set, make_cfg):
    cfg = make_cfg(painted_set)
    mapper = mapper_of(cfg)
    for position, record in enumerate(load_training_records(cfg) * 3):
        sample = mapper(record, position)
        for view in sample["views"]:
            y, x = np.divmod(view["cells"].numpy(), sample["width"])
            red, green, _ = view["image"].numpy() * 255
            assert np.abs(red - x).max() <= 0.75 and np.abs(green - y).max() <= 0.75
            x0, y0, x1, y1 = view["box"].tolist()
            assert x.min() >= x0 and x.max() < x1 and y.min() >= y0 and y.max() < y1
            assert (x[0, 0] > x[0, -1]) == view["flip"] or x1 - x0 == 1


def test_draws_depend_on_seed_and_position_alone(painted_set, make_cfg):
    cfg = make_cfg(painted_set)
    grid = make_cfg(painted_set, "DETCON.MASKS.SOURCE", "grid", "DETCON.AUG.JITTER_PROB", (1.0, 1.0), "DETCON.VIEWS.FLIP_PROB", 0.0)
    records = load_training_records(cfg)
    a, b = mapper_of(cfg)(records[0], 9), mapper_of(grid)(records[1], 9)
    expected = position_rng(0, 9, 2).random((2, 16), dtype=np.float32)
    for view, (first, second) in enumerate(zip(a["views"], b["views"])):
        np.testing.assert_array_equal(first["draws"].numpy(), expected[view])
        np.testing.assert_array_equal(second["draws"].numpy(), expected[view])


def test_a_grid_needs_no_files_and_is_of_the_full_image(painted_set, make_cfg):
    cfg = make_cfg(painted_set, "DETCON.MASKS.SOURCE", "grid", "DETCON.MASKS.GRID", 2, "DETCON.MASKS.ROOTS", ())
    mapper = mapper_of(cfg)
    record = load_training_records(cfg)[0]
    assert "label_map_file_name" not in record
    sample = mapper(record, 0)
    for view in sample["views"]:
        red, green, _ = view["image"].numpy() * 255
        # Away from the lines, ids follow from the painted coordinates.
        expected = (green > sample["height"] / 2) * 2 + (red > sample["width"] / 2)
        clear = (np.abs(green - sample["height"] / 2) > 2) & (np.abs(red - sample["width"] / 2) > 2)
        np.testing.assert_array_equal(view["cells"].numpy()[clear], expected[clear])


def test_the_views_of_detcon_b_are_augmented_differently(painted_set, make_cfg):
    cfg = make_cfg(painted_set, "DETCON.AUG.GRAY_PROB", (1.0, 0.0), "DETCON.AUG.SOLARIZE_PROB", (0.0, 1.0))
    sample = mapper_of(cfg)(load_training_records(cfg)[0], 0)
    first, second = (view["image"] for view in sample["views"])
    assert torch.equal(first[0], first[1]) and torch.equal(first[0], first[2])
    assert not torch.equal(second[0], second[1]) and second.max() <= 0.5


def test_a_label_map_of_another_size_is_refused_with_both_files(painted_set, make_cfg):
    cfg = make_cfg(painted_set)
    record = load_training_records(cfg)[0]
    painted_set.store.write(record["key"], numbered_pixels(7, 9))
    with pytest.raises(ValueError) as error:
        mapper_of(cfg)(record, 0)
    text = str(error.value)
    assert record["file_name"] in text and str(record["label_map_file_name"]) in text
    assert "9 x 7" in text and "expected 100 x 40" in text and "generate_masks.py" in text


def test_a_label_map_that_vanished_is_named(painted_set, make_cfg):
    cfg = make_cfg(painted_set)
    record = load_training_records(cfg)[0]
    painted_set.store.path(record["key"]).unlink()
    with pytest.raises(ValueError, match=r"generate_masks\.py"):
        mapper_of(cfg)(record, 0)


def test_exif_rotated_images_and_their_label_maps_are_in_step(empty_set, make_cfg):
    # How the camera stored it: the inverse of what viewers do for orientation 6.
    stored = painted_image(60, 90).transpose(1, 0, 2)[::-1]
    exif = Image.Exif()
    exif[0x0112] = 6
    empty_set.add("turned.png", Image.fromarray(np.ascontiguousarray(stored)), numbered_pixels(60, 90), exif=exif)
    cfg = make_cfg(empty_set)
    mapper, (record,) = mapper_of(cfg), load_training_records(cfg)
    for position in range(5):
        for view in mapper(record, position)["views"]:
            y, x = np.divmod(view["cells"].numpy(), 90)
            red, green, _ = view["image"].numpy() * 255
            assert np.abs(red - x).max() <= 0.75 and np.abs(green - y).max() <= 0.75


def test_more_than_255_regions_do_not_wrap_around(empty_set, make_cfg):
    empty_set.add_painted("large.png", 200, 250)
    cfg = make_cfg(empty_set, "DETCON.VIEWS.SIZE", 224, "DETCON.VIEWS.CROP_AREA", (1.0, 1.0), "DETCON.VIEWS.CROP_ASPECT", (1.0, 1.0))
    (record,) = load_training_records(cfg)
    labels = mapper_of(cfg)(record, 0)["views"][0]["cells"]
    assert labels.max() > 40000 and len(labels.unique()) > 30000


@pytest.mark.parametrize(
    "opts, message",
    [
        (("INPUT.FORMAT", "BGR"), "INPUT.FORMAT is 'BGR'; expected 'RGB'"),
        (("DETCON.AUG.BLUR_PROB", (1.0,)), "BLUR_PROB is .*expected probabilities"),
        (("DETCON.MASKS.SOURCE", "grid", "DETCON.MASKS.GRID", 0), "grid"),
    ],
)
def test_impossible_settings_are_refused(make_cfg, opts, message):
    with pytest.raises(ValueError, match=message):
        mapper_of(make_cfg(None, *opts))
