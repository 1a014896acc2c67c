"""Detectors get the images and labels of the config: specs are registered, fractions reproducible, augmentations as described."""

import json
import shutil

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.data.reading import RefusedImageError
from detcon_d2.engine import load_config
from detcon_d2.engine.finetune.data import build_detection_mapper, build_finetune_loader, choose_fraction, load_detection_records
from detcon_d2.engine.finetune.look import look_at_data
from tests.detectors import BASE, detector_opts, spec


def load(shapes, tmp_path, **overrides):
    return load_config(BASE, detector_opts(shapes, tmp_path, **overrides))


def test_a_coco_spec_becomes_a_data_set_of_the_catalogs_under_its_own_name(shapes, tmp_path):
    name = spec(shapes, "train")
    cfg = load(shapes, tmp_path)
    for _ in range(2):
        look_at_data(cfg, [name], [name])
    assert len(d2.DatasetCatalog.get(name)) == 6
    metadata = d2.MetadataCatalog.get(name)
    assert metadata.evaluator_type == "coco" and metadata.thing_classes[:2] == ["disc", "ring"]


def test_records_have_contiguous_categories_and_images_without_labels_are_left_out(shapes, tmp_path):
    source = json.loads((shapes / "annotations" / "instances_train.json").read_text())
    source["annotations"] = [one for one in source["annotations"] if one["image_id"] != 1]
    (tmp_path / "instances.json").write_text(json.dumps(source))
    cfg = load(shapes, tmp_path, DATASETS__TRAIN=f'("coco:{tmp_path}/instances.json,{shapes}/images/train",)')
    records = load_detection_records(cfg)
    assert sorted(record["image_id"] for record in records) == [2, 3, 4, 5, 6]
    assert {one["category_id"] for record in records for one in record["annotations"]} <= set(range(8))


def test_a_damaged_json_is_named(shapes, tmp_path):
    (tmp_path / "instances.json").write_text("{")
    cfg = load(shapes, tmp_path, DATASETS__TRAIN=f'("coco:{tmp_path}/instances.json,{tmp_path}",)')
    with pytest.raises(ValueError, match=r"instances\.json.*cannot be read"):
        load_detection_records(cfg)


def test_a_fraction_depends_only_on_its_seed_and_a_small_one_is_part_of_a_large_one():
    records = [{"image_id": index} for index in range(1000)]
    one, ten = choose_fraction(records, 0.01, 0), choose_fraction(records, 0.1, 0)
    assert (len(one), len(ten)) == (10, 100)
    assert {record["image_id"] for record in one} <= {record["image_id"] for record in ten}
    assert one == choose_fraction(records, 0.01, 0) != choose_fraction(records, 0.01, 1)
    assert len(choose_fraction(records, 1e-9, 0)) == 1
    np.random.seed(3)
    assert one == choose_fraction(records, 0.01, 0)


def test_the_number_of_images_of_a_fraction_is_logged(shapes, tmp_path, caplog):
    caplog.set_level("INFO", logger="detcon_d2")
    cfg = load(shapes, tmp_path, DETCON__FINETUNE__LABEL_FRACTION=0.5, SEED=7)
    chosen = load_detection_records(cfg)
    assert len(chosen) == 3 and "LABEL_FRACTION 0.5: 3 of 6 images, chosen by LABEL_SEED 0" in caplog.text
    cfg.SEED = 8
    assert load_detection_records(cfg) == chosen


def test_the_loader_gives_the_same_images_for_the_same_seed(shapes, tmp_path):
    cfg = load(shapes, tmp_path)
    records = load_detection_records(cfg)

    def first(seed: int) -> list[int]:
        batches = iter(build_finetune_loader(cfg, records, seed, num_workers=0))
        return [record["image_id"] for _ in range(3) for record in next(batches)]

    assert first(1) == first(1) != first(2)
    assert len(first(1)) == 12 and set(first(1)) == set(range(1, 7))


def jitter(shapes, tmp_path, **overrides):
    values = {"DETCON__FINETUNE__AUGMENTATION": "scale_jitter", "DETCON__FINETUNE__JITTER_SIZE": 96}
    return load(shapes, tmp_path, **values | overrides)


def test_scale_jitter_gives_squares_with_boxes_around_their_masks(shapes, tmp_path):
    cfg = jitter(shapes, tmp_path)
    mapper = build_detection_mapper(cfg)
    d2.seed_all_rng(0)
    for record in load_detection_records(cfg):
        mapped = mapper(record)
        instances = mapped["instances"]
        assert mapped["image"].shape == (3, 96, 96) and len(instances) > 0
        masks = instances.gt_masks.tensor
        assert masks.shape[1:] == (96, 96)
        for box, mask in zip(instances.gt_boxes.tensor, masks):
            y, x = torch.nonzero(mask, as_tuple=True)
            torch.testing.assert_close(box, torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float(), rtol=0, atol=1.0)


@pytest.mark.parametrize(("scale", "side"), [((1.0, 1.0), 96), ((0.5, 0.5), 48)])
def test_scale_jitter_resizes_the_long_side_and_pads_with_grey(shapes, tmp_path, scale, side):
    cfg = jitter(shapes, tmp_path, DETCON__FINETUNE__JITTER_SCALE=scale, INPUT__RANDOM_FLIP="none")
    image = np.zeros((40, 64, 3), dtype=np.uint8)
    for augmentation in build_detection_mapper(cfg).augmentations.augs:
        image = augmentation.get_transform(image).apply_image(image)
    inside = (image[:, :, 0] == 0).nonzero()
    assert image.shape == (96, 96, 3)
    assert inside[1].max() + 1 == side and inside[0].max() + 1 == side * 40 // 64
    assert (image[-1, -1] == 128).all()


def test_an_image_that_is_gone_is_named(shapes, tmp_path):
    copied = shutil.copytree(shapes, tmp_path / "copy")
    (copied / "images" / "train" / "000003.jpg").unlink()
    cfg = load(copied, tmp_path)
    with pytest.raises(ValueError, match=r"the file is not there .*000003\.jpg"):
        load_detection_records(cfg)
    # One that goes later is named by the mapper.
    shutil.copy(shapes / "images" / "train" / "000003.jpg", copied / "images" / "train")
    batches = iter(build_finetune_loader(cfg, load_detection_records(cfg), 0, num_workers=0))
    (copied / "images" / "train" / "000003.jpg").unlink()
    with pytest.raises(RefusedImageError, match=r"000003\.jpg: no such file"):
        for _ in range(4):
            next(batches)
