"""Small data sets in the folders that the transfer configs name: datasets/VOC2007, VOC2012 and cityscapes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcon_d2 import d2

SIZE = (64, 96)
"""(H, W) of each image."""


def needs(name: str) -> None:
    """Skip a test that needs a part of Detectron2 which the subset lacks."""
    try:
        getattr(d2, name)
    except AttributeError as error:
        pytest.skip(str(error))


def write_world(folder: Path) -> Path:
    """Write all data sets and return ``folder``, from which the configs find them."""
    for year, lists in (("2007", ("trainval", "test")), ("2012", ("trainval",))):
        write_voc_detection(folder / "datasets" / f"VOC{year}", lists)
    write_voc_labels(folder / "datasets" / "VOC2012")
    write_cityscapes_labels(folder / "datasets" / "cityscapes")
    return folder


def write_voc_detection(root: Path, lists: tuple[str, ...]) -> None:
    for index, name in enumerate(lists):
        stems = [f"{index}{number:05d}" for number in range(3)]
        _write(root / "ImageSets" / "Main" / f"{name}.txt", "\n".join(stems) + "\n")
        for stem in stems:
            _save(root / "JPEGImages" / f"{stem}.jpg", _image(int(stem)))
            objects = "".join(
                f"<object><name>{one}</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult><bndbox><xmin>{x}</xmin>"
                f"<ymin>{y}</ymin><xmax>{x + 29}</xmax><ymax>{y + 29}</ymax></bndbox></object>"
                for one, x, y in (("person", 5, 10), ("cat", 50, 25))
            )
            size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
            _write(root / "Annotations" / f"{stem}.xml", f"<annotation><filename>{stem}.jpg</filename>{size}{objects}</annotation>")


def write_voc_labels(root: Path) -> None:
    for name, numbers in (("train_aug", range(3)), ("val", range(3, 5))):
        stems = [f"seg_{number}" for number in numbers]
        _write(root / "ImageSets" / "Segmentation" / f"{name}.txt", "\n".join(stems) + "\n")
        for number, stem in zip(numbers, stems):
            _save(root / "JPEGImages" / f"{stem}.jpg", _image(number))
            labels = Image.fromarray(_labels((0, 15, 255)))
            labels.putpalette(list(range(256)) * 3)  # as VOC's own files, whose colours are not the classes
            _save(root / "SegmentationClassAug" / f"{stem}.png", labels)


def write_cityscapes_labels(root: Path) -> None:
    for split in ("train", "val"):
        for number in range(2):
            stem = f"aachen_{number:06d}_000019"
            _save(root / "leftImg8bit" / split / "aachen" / f"{stem}_leftImg8bit.png", _image(number))
            labels = root / "gtFine" / split / "aachen"
            for kind, values in (("instanceIds", (7, 24001, 0)), ("labelIds", (7, 24, 0)), ("labelTrainIds", (0, 11, 255))):
                _save(labels / f"{stem}_gtFine_{kind}.png", Image.fromarray(_labels(values)))
            _write(labels / f"{stem}_gtFine_polygons.json", json.dumps({"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": []}))


def _image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8))


def _labels(values: tuple[int, int, int]) -> np.ndarray:
    """Thirds of the width with one value each."""
    return np.repeat(np.array([values], np.min_scalar_type(max(values))), SIZE[1] // 3, axis=1).repeat(SIZE[0], axis=0)


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
