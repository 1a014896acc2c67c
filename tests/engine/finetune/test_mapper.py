"""Detectors see the pixels that all tools see, in images of any shape, and one bad image is named or left out."""

import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detcon_d2 import d2
from detcon_d2.data.reading import RefusedImageError
from detcon_d2.engine import load_config, main
from detcon_d2.engine.finetune.data import build_evaluation_loader, build_finetune_loader, load_detection_records
from detcon_d2.engine.finetune.mapper import DetectionMapper
from detcon_d2.io.images import read_image
from tests.detectors import BASE, arguments, detector_opts
from tests.engine.runs import finetuner, output_of, results, start


def load(shapes: Path, tmp_path: Path, **overrides: object) -> "d2.CfgNode":
    return load_config(BASE, detector_opts(shapes, tmp_path, **overrides))


def write_kinds(folder: Path) -> dict[str, dict]:
    """Files on which Detectron2's reader and ours differ, and their records."""
    rng = np.random.default_rng(0)
    cut_out = rng.integers(0, 255, (40, 60, 4), dtype=np.uint8)
    cut_out[..., 3] = 0
    cut_out[10:30, 10:40] = (200, 30, 30, 255)
    wide = rng.integers(0, 4096, (40, 60), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {
        "alpha.png": Image.fromarray(cut_out),
        "palette.png": Image.fromarray(cut_out[..., :3]).quantize(20),
        "la.png": Image.fromarray(cut_out).convert("LA"),
        "twelve.png": Image.fromarray(wide),
        "twelve.tif": Image.fromarray(wide),
        "cmyk.jpg": Image.fromarray(cut_out[..., :3]).convert("CMYK"),
        "grey.jpg": Image.fromarray(cut_out[..., 0]),
    }
    for name, image in images.items():
        image.save(folder / name)
    Image.fromarray(cut_out[..., :3]).save(folder / "turned.jpg", exif=exif)
    shutil.copy(folder / "turned.jpg", folder / "stored.jpg")
    sizes = dict.fromkeys([*images, "stored.jpg"], (40, 60)) | {"turned.jpg": (60, 40)}
    return {name: {"file_name": str(folder / name), "image_id": 1, "height": size[0], "width": size[1]} for name, size in sizes.items()}


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("is_train", [False, True])
def test_the_mapper_gives_the_pixels_of_the_one_reader(shapes, tmp_path, is_train, image_format):
    sizes = {"INPUT__MIN_SIZE_TRAIN": "(0,)", "INPUT__MIN_SIZE_TEST": 0, "INPUT__RANDOM_FLIP": "none"}
    mapper = DetectionMapper(load(shapes, tmp_path, INPUT__FORMAT=image_format, **sizes), is_train)
    for name, record in write_kinds(tmp_path).items():
        before = dict(record)
        found = mapper(record)
        size = record["height"], record["width"]
        expected = read_image(record["file_name"], size)
        assert record == before and found["file_name"] == record["file_name"] and expected.shape[:2] == size, name
        pixels = found["image"].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(pixels if image_format == "RGB" else pixels[..., ::-1], expected, name)


def test_the_range_of_wide_samples_is_that_of_the_config(shapes, tmp_path):
    record = write_kinds(tmp_path)["twelve.png"]
    cfg = load(shapes, tmp_path, INPUT__MIN_SIZE_TEST=0, DETCON__DATA__WIDE_RANGE="(0, 8190)")
    assert DetectionMapper(cfg, False)(record)["image"].max() in (127, 128)
    cfg.DETCON.DATA.WIDE_RANGE = (5, 5)
    with pytest.raises(ValueError, match="WIDE_RANGE"):
        DetectionMapper(cfg, False)


@pytest.mark.parametrize("augmentation", ["default", "scale_jitter"])
@pytest.mark.parametrize("size", [(3, 4000), (4000, 3), (1, 1), (1, 5000)])
def test_thin_images_keep_at_least_one_pixel_and_can_be_trained_on(shapes, tmp_path, size, augmentation):
    height, width = size
    Image.new("RGB", (width, height)).save(tmp_path / "thin.png")
    box = {"bbox": [0, 0, width, height], "bbox_mode": 1, "category_id": 0, "segmentation": [[0, 0, width, 0, width, height, 0, height]]}
    record = {"file_name": str(tmp_path / "thin.png"), "image_id": 1, "height": height, "width": width, "annotations": [box]}
    cfg = load(shapes, tmp_path, DETCON__FINETUNE__AUGMENTATION=augmentation, DETCON__FINETUNE__JITTER_SIZE=64)
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = 100
    (sample,) = next(iter(build_finetune_loader(one_image(cfg), [record], 0, num_workers=0)))
    assert min(sample["image"].shape) >= 1 and sample["image"].shape[1:] == sample["instances"].image_size
    found = DetectionMapper(cfg, False)(record)
    model = d2.build_model(cfg).eval()
    with torch.no_grad():
        (output,) = model([found])
    assert output["instances"].image_size == size


def one_image(cfg: "d2.CfgNode") -> "d2.CfgNode":
    cfg.SOLVER.IMS_PER_BATCH = 1
    return cfg


DAMAGE = {"cut": "truncated", "empty": "0 bytes", "gone": "no such file"}


@pytest.fixture(params=DAMAGE)
def damaged(request, shapes, tmp_path) -> tuple[Path, str]:
    """A copy of the data set in which image 3 of each split is damaged, and the reason that is given."""
    copied = shutil.copytree(shapes, tmp_path / "copy")
    for split in ("train", "val"):
        damage(copied / "images" / split / "000003.jpg", request.param)
    return copied, DAMAGE[request.param]


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if kind != "gone":
        path.write_bytes(data[: len(data) // 2] if kind == "cut" else b"")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_training_image_is_named_in_one_line(damaged, tmp_path, workers):
    shapes, reason = damaged
    cfg = load(shapes, tmp_path)
    if reason != DAMAGE["cut"]:
        # The header is looked at before the run.
        with pytest.raises(ValueError, match=r"wrong: 1 image, .*000003\.jpg"):
            load_detection_records(cfg)
        return
    batches = iter(build_finetune_loader(cfg, load_detection_records(cfg), 0, num_workers=workers))
    with pytest.raises(RefusedImageError) as caught:
        for _ in range(4):
            next(batches)
    text = str(caught.value)
    assert re.fullmatch(rf"cannot read image {shapes}/images/train/000003\.jpg: .*{reason}.*ON_BAD_IMAGE skip: .*", text)


def test_a_skipped_training_image_is_replaced_in_the_same_way_each_time(damaged, tmp_path, caplog):
    shapes, _ = damaged
    cfg = load(shapes, tmp_path, DETCON__ON_BAD_IMAGE="skip")
    records = load_detection_records(cfg)

    def first() -> list[str]:
        d2.seed_all_rng(5)
        batches = iter(build_finetune_loader(cfg, records, 0, num_workers=0))
        return [sample["file_name"] for _ in range(6) for sample in next(batches)]

    with caplog.at_level(logging.WARNING):
        found = first()
    assert found == first() and len(found) == 24 and not any("000003" in name for name in found)
    assert any("000003.jpg" in record.getMessage() for record in caplog.records)


def test_a_data_set_of_bad_images_ends_the_run(shapes, tmp_path):
    copied = shutil.copytree(shapes, tmp_path / "copy")
    for path in (copied / "images" / "train").iterdir():
        path.write_bytes(b"")
    cfg = load(copied, tmp_path, DETCON__ON_BAD_IMAGE="skip")
    with pytest.raises(RefusedImageError, match="20 images in a row could not be read"):
        next(iter(build_finetune_loader(cfg, load_detection_records(cfg), 0, num_workers=0)))


@pytest.fixture(scope="module")
def weights(shapes, tmp_path_factory) -> Path:
    """A detector after one iteration."""
    folder = tmp_path_factory.mktemp("weights")
    finetuner(detector_opts(shapes, folder, SOLVER__MAX_ITER=1, DATASETS__TEST="()")).train()
    return folder / "model_final.pth"


def test_evaluation_refuses_a_bad_image_or_leaves_it_out_and_says_so(damaged, weights, tmp_path, caplog, capsys):
    shapes, _ = damaged
    opts = detector_opts(shapes, tmp_path / "o", MODEL__WEIGHTS=weights)
    with pytest.raises(SystemExit) as refused:
        main(arguments(opts, eval_only=True))
    assert "000003.jpg" in f"{refused.value}{capsys.readouterr().err}"
    with caplog.at_level(logging.WARNING):
        main(arguments([*opts, "DETCON.ON_BAD_IMAGE", "skip"], eval_only=True))
    assert "000003.jpg" in caplog.text
    ((_, found),) = results(tmp_path / "o")["results"].items()
    assert found.pop("images") == {"left_out": 1}
    # The same metrics as without the image.
    path = shapes / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    (bad,) = [image["id"] for image in content["images"] if image["file_name"] == "000003.jpg"]
    content["images"] = [image for image in content["images"] if image["id"] != bad]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != bad]
    path.write_text(json.dumps(content))
    clean = shutil.copytree(shapes, tmp_path / "clean")
    main(arguments(detector_opts(clean, tmp_path / "c", MODEL__WEIGHTS=weights), eval_only=True))
    assert results(tmp_path / "c")["results"] == {f"coco:{clean}/annotations/instances_val.json,{clean}/images/val": found}


def test_an_image_of_another_size_is_named(shapes, tmp_path):
    cfg = load(shapes, tmp_path)
    records = [record | {"height": 5} for record in load_detection_records(cfg)]
    with pytest.raises(RefusedImageError, match=rf"{shapes}/images/train/\d+\.jpg"):
        DetectionMapper(cfg, False)(records[0])


@pytest.mark.parametrize("skip", [False, True])
def test_two_processes_end_or_go_on_together(shapes, tmp_path, skip):
    copied = shutil.copytree(shapes, tmp_path / "copy")
    for split in ("train", "val"):
        damage(copied / "images" / split / "000003.jpg", "cut")
    policy = {"DETCON__ON_BAD_IMAGE": "skip" if skip else "refuse", "TEST__PRECISE_BN__ENABLED": False}
    process = start(detector_opts(copied, tmp_path / "o", **policy), "--num-gpus", "2", config=BASE)
    output = output_of(process, code=0 if skip else 1)
    assert "000003.jpg" in output
    if skip:
        ((_, found),) = results(tmp_path / "o")["results"].items()
        assert found["images"] == {"left_out": 1}
    else:
        assert "cannot read image" in output and not (tmp_path / "o" / "model_final.pth").exists()


def test_evaluation_loaders_say_how_wide_samples_are_read(shapes, tmp_path, caplog):
    copied = shutil.copytree(shapes, tmp_path / "copy")
    for path in (copied / "images" / "val").iterdir():
        Image.fromarray(np.full((64, 64), 4095, np.uint16)).save(path, "PNG")
    cfg = load(copied, tmp_path)
    with caplog.at_level(logging.INFO, logger="detcon_d2"):
        build_evaluation_loader(cfg, cfg.DATASETS.TEST[0])
    assert "Samples wider than 8 bits" in caplog.text
