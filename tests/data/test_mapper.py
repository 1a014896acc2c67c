"""A record and a position become two aligned views; nothing else plays a part."""

import numpy as np
import pytest
import torch
from PIL import Image

from detcon_d2.data import load_training_records
from detcon_d2.io.images import ImageReadError
from detcon_d2.views.position import position_rng
from tests.data.samples import mapper_of
from tests.painted import numbered_pixels, painted_image


def assert_equal_samples(a: dict, b: dict) -> None:
    """Bit-exact equality of two mapper outputs."""
    assert a.keys() == b.keys()
    for key in a.keys() - {"views"}:
        assert a[key] == b[key]
    for first, second in zip(a["views"], b["views"], strict=True):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert torch.equal(value, second[key]) if torch.is_tensor(value) else value == second[key]


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


def test_unlabelled_records_have_no_label(painted_set, make_cfg):
    cfg = make_cfg(painted_set)
    record = {key: value for key, value in load_training_records(cfg)[0].items() if key != "label"}
    assert "label" not in mapper_of(cfg)(record, 0)


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


def test_seed_and_position_alone_decide(painted_set, make_cfg):
    cfg = make_cfg(painted_set, "DETCON.AUG.JITTER_PROB", (0.8, 0.8), "DETCON.AUG.BLUR_PROB", (1.0, 0.1))
    record = load_training_records(cfg)[0]
    sample = mapper_of(cfg)(record, 5)
    np.random.seed(1)
    torch.manual_seed(1)
    assert_equal_samples(mapper_of(cfg)(record, 5), sample)
    assert not torch.equal(mapper_of(cfg)(record, 6)["views"][0]["image"], sample["views"][0]["image"])
    other = mapper_of(make_cfg(painted_set, "SEED", 1))(record, 5)
    assert not torch.equal(other["views"][0]["box"], sample["views"][0]["box"])


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


def test_the_published_augmentations_run(painted_set, make_cfg):
    for operators, strength in (("dm_pix", 0.4), ("torchvision", 0.8)):
        opts = [("OPERATORS", operators), ("BRIGHTNESS", strength), ("CONTRAST", strength), ("SATURATION", strength), ("HUE", 0.2)]
        opts += [("JITTER_PROB", (0.8, 0.8)), ("GRAY_PROB", (0.2, 0.2)), ("BLUR_PROB", (1.0, 0.1)), ("SOLARIZE_PROB", (0.0, 0.2))]
        cfg = make_cfg(painted_set, *(item for key, value in opts for item in (f"DETCON.AUG.{key}", value)))
        mapper, records = mapper_of(cfg), load_training_records(cfg)
        for position in range(40):
            for view in mapper(records[position % len(records)], position)["views"]:
                assert torch.isfinite(view["image"]).all() and view["image"].min() >= 0 and view["image"].max() <= 1


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


def test_an_unreadable_image_is_named(painted_set, make_cfg):
    cfg = make_cfg(painted_set)
    record = load_training_records(cfg)[0]
    with open(record["file_name"], "r+b") as file:
        file.truncate(60)
    with pytest.raises(ImageReadError, match=record["file_name"]):
        mapper_of(cfg)(record, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotated_images_and_their_label_maps_are_in_step(empty_set, make_cfg, orientation):
    shown = painted_image(60, 90)
    # How the camera stored it: the inverse of what viewers do for this orientation.
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: shown.transpose(1, 0, 2)[::-1],
        7: shown[::-1, ::-1].transpose(1, 0, 2),
        8: shown.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    empty_set.add("turned.png", Image.fromarray(np.ascontiguousarray(stored)), numbered_pixels(60, 90), exif=exif)
    cfg = make_cfg(empty_set)
    mapper, (record,) = mapper_of(cfg), load_training_records(cfg)
    for position in range(5):
        for view in mapper(record, position)["views"]:
            y, x = np.divmod(view["cells"].numpy(), 90)
            red, green, _ = view["image"].numpy() * 255
            assert np.abs(red - x).max() <= 0.75 and np.abs(green - y).max() <= 0.75


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1", "LA", "I;16"])
def test_images_of_any_mode_give_rgb_views(empty_set, make_cfg, mode):
    rgb = Image.fromarray(painted_image(50, 70))
    image = Image.fromarray((np.arange(3500).reshape(50, 70) * 18).astype(np.uint16)) if mode == "I;16" else rgb.convert(mode)
    extension = "jpg" if mode == "CMYK" else "png"
    empty_set.add(f"image.{extension}", image, numbered_pixels(50, 70))
    cfg = make_cfg(empty_set)
    (record,) = load_training_records(cfg)
    sample = mapper_of(cfg)(record, 0)
    assert all(view["image"].shape == (3, 32, 32) and view["image"].std() > 0 for view in sample["views"])


@pytest.mark.parametrize("height, width", [(1, 1), (1, 50), (50, 1), (5, 7)])
def test_images_smaller_than_a_view_are_enlarged(empty_set, make_cfg, height, width):
    empty_set.add_painted("small.png", height, width)
    cfg = make_cfg(empty_set)
    mapper, (record,) = mapper_of(cfg), load_training_records(cfg)
    for position in range(20):
        sample = mapper(record, position)
        for view in sample["views"]:
            y, x = np.divmod(view["cells"].numpy(), width)
            red, green, _ = view["image"].numpy() * 255
            assert np.abs(red - x).max() <= 0.75 and np.abs(green - y).max() <= 0.75


@pytest.mark.parametrize(
    "regions", [np.zeros((30, 40), np.uint16), np.full((30, 40), 65535, np.uint16), np.full((30, 40), 300, np.uint16)], ids=str
)
def test_one_region_and_no_region_pass_through_unchanged(empty_set, make_cfg, regions):
    empty_set.add("image.png", Image.fromarray(painted_image(30, 40)), regions)
    cfg = make_cfg(empty_set)
    (record,) = load_training_records(cfg)
    for view in mapper_of(cfg)(record, 0)["views"]:
        assert set(view["cells"].unique().tolist()) == {int(regions[0, 0])}


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
        (("DETCON.AUG.BLUR_PROB", (1.0,)), "BLUR_PROB is .*expected two probabilities"),
        (("DETCON.AUG.OPERATORS", "pil"), "OPERATORS is 'pil'"),
        (("DETCON.VIEWS.INTERPOLATION", "bilinear"), "INTERPOLATION is 'bilinear'"),
        (("DETCON.MASKS.SOURCE", "grid", "DETCON.MASKS.GRID", 0), "grid"),
    ],
)
def test_impossible_settings_are_refused(make_cfg, opts, message):
    with pytest.raises(ValueError, match=message):
        mapper_of(make_cfg(None, *opts))
