"""Stored label maps in training: of any format, of several layers, with many regions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcon_d2.data import describe_masks, load_records, load_training_records
from detcon_d2.masks.store.formats import STORES
from detcon_d2.masks.store.merge import merge, take_over
from tests.data.samples import loader_of, mapper_of
from tests.data.test_mapper import assert_equal_samples
from tests.io.test_tar import write_tar
from tests.painted import PaintedSet, painted_image

formats = pytest.mark.parametrize("file_format", STORES)


@pytest.fixture
def layered_set(tmp_path):
    """A function from a format to eight images with three label maps: everywhere 0, 1 and 2."""

    def make(file_format: str) -> PaintedSet:
        folder, masks = tmp_path / "images", tmp_path / f"masks_{file_format}"
        folder.mkdir(exist_ok=True)
        store = STORES[file_format].create(masks, "fh_scales", {"scales": [1.0, 2.0, 3.0]}, f"folder:{folder}", layers=3)
        dataset = PaintedSet(folder, masks, store)
        for number in range(8):
            layers = np.broadcast_to(np.arange(3, dtype=np.uint16)[:, None, None], (3, 40, 50 + number))
            dataset.add(f"{number}.png", Image.fromarray(painted_image(40, 50 + number)), layers)
        store.finish([{"key": f"{number}.png", "file_name": ""} for number in range(8)], {})
        return dataset

    return make


def layer_of(sample: dict) -> int:
    """Which layer the regions of a sample are; the same in both views."""
    (layer,) = {int(view["cells"].max()) for view in sample["views"]} | {int(view["cells"].min()) for view in sample["views"]}
    return layer


@formats
def test_training_reads_every_format_alike(painted_set, make_cfg, tmp_path, file_format):
    cfg = make_cfg(painted_set)
    expected = [mapper_of(cfg)(record, 7) for record in load_training_records(cfg)]
    store = take_over(tmp_path / "m", [str(painted_set.masks)], file_format)
    cfg.DETCON.MASKS.ROOTS = (str(tmp_path / "m"),)
    if file_format != "png":
        with pytest.raises(ValueError, match=rf"10 of them are made but not merged: python tools/merge_masks.py {tmp_path}/m"):
            load_training_records(cfg)
    records = load_training_records(make_cfg(painted_set))
    merge(store, records)
    for record, sample in zip(load_training_records(cfg), expected, strict=True):
        assert_equal_samples(mapper_of(cfg)(record, 7), sample)
    assert describe_masks(cfg) == "grid size=2"


@formats
def test_a_layer_is_drawn_for_each_position_and_shared_by_the_views(layered_set, make_cfg, file_format):
    dataset = layered_set(file_format)
    cfg = make_cfg(dataset)
    (record, *_), mapper = load_training_records(cfg), mapper_of(cfg)
    assert record["label_map_file_name"].layers == 3
    drawn = [layer_of(mapper(record, position)) for position in range(60)]
    assert {drawn.count(layer) > 8 for layer in range(3)} == {True}
    assert drawn[20:] == [layer_of(mapper_of(cfg)(record, position)) for position in range(20, 60)]
    cfg.SEED = 1
    assert drawn != [layer_of(mapper_of(cfg)(record, position)) for position in range(60)]
    assert describe_masks(cfg) == "fh_scales scales=[1.0, 2.0, 3.0] one of 3 layers"


@formats
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_chosen_layer_is_used_everywhere(layered_set, make_cfg, file_format, layer):
    dataset = layered_set(file_format)
    cfg = make_cfg(dataset, "DETCON.MASKS.LAYER", layer)
    mapper = mapper_of(cfg)
    assert {layer_of(mapper(record, position)) for position, record in enumerate(load_training_records(cfg))} == {layer}
    assert describe_masks(cfg).endswith(f" layer {layer} of 3")


@pytest.mark.parametrize("layer", [-2, 3])
def test_a_layer_that_does_not_exist_is_refused_at_the_start(layered_set, make_cfg, layer):
    with pytest.raises(ValueError, match=rf"DETCON.MASKS.LAYER is {layer}; expected 0..2, as .* has 3 label map\(s\)"):
        load_training_records(make_cfg(layered_set("tar"), "DETCON.MASKS.LAYER", layer))


@formats
def test_images_in_tars_are_trained_on_as_in_a_folder(painted_set, make_cfg, tmp_path, file_format):
    files = sorted(painted_set.folder.rglob("*.png"))
    for number in range(2):
        members = {path.relative_to(painted_set.folder).as_posix(): path.read_bytes() for path in files[5 * number : 5 * number + 5]}
        write_tar(tmp_path / f"train-{number}.tar", members)
    spec = f"tar:{tmp_path}/train-{{0..1}}.tar"
    store = STORES[file_format].create(tmp_path / "m", "grid", {"size": 2}, spec)
    records = load_records(spec)
    for record in records:
        store.write(record["key"], painted_set.store.read(f"{record['key']}.png"))
    store.finish(records, {})
    cfg = make_cfg(painted_set)
    expected = [mapper_of(cfg)(record, 4) for record in load_training_records(cfg)]
    cfg.DATASETS.TRAIN, cfg.DETCON.MASKS.ROOTS = (spec,), (str(tmp_path / "m"),)
    for record, sample in zip(load_training_records(cfg), expected, strict=True):
        names = {"file_name": record["file_name"], "image_id": record["key"], "label": sample["label"]}
        assert_equal_samples(mapper_of(cfg)(record, 4) | names, sample | names)


def test_workers_read_tars_and_draw_the_same_layers(layered_set, make_cfg):
    dataset = layered_set("tar")
    batches = []
    for workers in (0, 2):
        loader = iter(loader_of(make_cfg(dataset, "DATALOADER.NUM_WORKERS", workers), start_iteration=3))
        batches.append([sample for _ in range(3) for sample in next(loader)])
    for one, other in zip(*batches, strict=True):
        assert_equal_samples(one, other)


def test_a_damaged_label_map_is_named_with_its_image(layered_set, make_cfg):
    dataset = layered_set("tar")
    cfg = make_cfg(dataset)
    record = load_training_records(cfg)[0]
    path, _, offset, length = record["label_map_file_name"]
    data = bytearray(Path(path).read_bytes())
    data[offset + length - 1] ^= 1
    Path(path).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{path}: .*damaged.*generate_masks.py again \(image {dataset.folder}/0.png\)"):
        mapper_of(cfg)(record, 0)


@formats
def test_images_that_failed_are_left_out_if_bad_images_are_skipped(painted_set, make_cfg, tmp_path, caplog, file_format):
    cfg = make_cfg(painted_set)
    records = load_training_records(cfg)
    store = STORES[file_format].create(tmp_path / "m", "grid", {"size": 2}, f"folder:{painted_set.folder}")
    failed = {record["key"]: "damaged" for record in records[2:4]}
    for record in records:
        if record["key"] not in failed:
            store.write(record["key"], painted_set.store.read(record["key"]))
    store.write_failed(failed)
    store.finish(records, failed)
    cfg.DETCON.MASKS.ROOTS = (str(tmp_path / "m"),)
    with pytest.raises(ValueError, match=r"^2 of the 10 images .*or set DETCON\.ON_BAD_IMAGE skip to leave them out"):
        load_training_records(cfg)
    cfg.DETCON.ON_BAD_IMAGE = "skip"
    assert [one["key"] for one in load_training_records(cfg)] == [one["key"] for one in records if one["key"] not in failed]
    assert f"2 of the 10 images of folder:{painted_set.folder} are left out" in caplog.text
    # What is neither there nor listed has not been tried.
    store.write_failed({records[2]["key"]: "damaged"})
    with pytest.raises(ValueError, match=r"^1 of the 9 images"):
        load_training_records(cfg)
