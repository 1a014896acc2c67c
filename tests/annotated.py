"""Small data sets with annotations for tests: coloured rectangles in every format."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 64
CLASSES = ("bolt", "nut")
# Of each image: class, x, y, width, height.
OBJECTS = [[(0, 5, 6, 30, 20), (1, 50, 30, 21, 33)], [(1, 0, 0, 40, 40)], [(0, 60, 10, 36, 54), (0, 2, 40, 20, 20)]]


def write_images(folder: Path, names: list[str] | None = None) -> list[str]:
    """Write an image for each entry of ``OBJECTS`` and return their names."""
    names = names or [f"p{number}.png" for number in range(len(OBJECTS))]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(60, 120, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        for category, x, y, width, height in OBJECTS[number]:
            pixels[y : y + height, x : x + width] = ((220, 40, 40), (40, 60, 220))[category]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return names


def coco_content(names: list[str]) -> dict:
    """The content of a correct COCO json."""
    images = [{"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} for number, name in enumerate(names, 1)]
    annotations = []
    for image, objects in zip(images, OBJECTS):
        for category, x, y, width, height in objects:
            polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
            one = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category + 1, "bbox": [x, y, width, height]}
            annotations.append(one | {"area": width * height, "iscrowd": 0, "segmentation": [polygon]})
    categories = [{"id": number, "name": name, "supercategory": "part"} for number, name in enumerate(CLASSES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder: Path, change: Callable[[dict], object] | None = None, name: str = "instances.json") -> str:
    """Write images and a json, which ``change`` may alter in place; returns the spec."""
    content = copy.deepcopy(coco_content(write_images(folder / "images")))
    if change is not None:
        change(content)
    (folder / name).write_text(json.dumps(content))
    return f"coco:{folder / name},{folder / 'images'}"


def each(change: Callable[[dict], object]) -> Callable[[dict], None]:
    """A change of the content that changes each annotation."""

    def apply(content: dict) -> None:
        for annotation in content["annotations"]:
            change(annotation)

    return apply


def write_voc(root: Path) -> str:
    """Write a VOC folder with the lists "train" (the first two images) and "val"; returns its spec without a split."""
    stems = [Path(name).stem for name in write_images(root / "JPEGImages")]
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for stem, objects in zip(stems, OBJECTS):
        things = "".join(
            f"<object><name>{CLASSES[category]}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox></object>"
            for category, x, y, width, height in objects
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation><filename>{stem}.png</filename>{size}{things}</annotation>")
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(stems[:2]) + "\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text(f"{stems[2]}\n")
    return f"voc:{root}"


def write_yolo(root: Path, polygons: bool = False) -> str:
    """Write images, labels and data.yaml of a split "train"; returns the spec of the yaml."""
    names = write_images(root / "images" / "train")
    (root / "labels" / "train").mkdir(parents=True)
    for name, objects in zip(names, OBJECTS):
        rows = []
        for category, x, y, width, height in objects:
            values = [(x + width / 2) / WIDTH, (y + height / 2) / HEIGHT, width / WIDTH, height / HEIGHT]
            if polygons:
                corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
                values = [value for a, b in corners for value in (a / WIDTH, b / HEIGHT)]
            rows.append(" ".join(map(str, [category, *values])))
        (root / "labels" / "train" / f"{Path(name).stem}.txt").write_text("\r\n".join(rows) + "\n")
    (root / "data.yaml").write_text(f"train: images/train\nval: images/train\nnc: 2\nnames: {list(CLASSES)}\n")
    return f"yolo:{root / 'data.yaml'}"


def label_image(objects: list[tuple], values: list[int]) -> np.ndarray:
    """uint16 (H, W) with a value for each object, 0 elsewhere."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    for (_, x, y, width, height), value in zip(objects, values):
        labels[y : y + height, x : x + width] = value
    return labels


def write_masks(root: Path) -> str:
    """Write images and a PNG of labels each; returns the spec."""
    for name, objects in zip(write_images(root / "images"), OBJECTS):
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(label_image(objects, [7, 300])).save(root / "masks" / name)
    return f"masks:{root / 'images'},{root / 'masks'}"


def write_cityscapes(root: Path) -> str:
    """Write leftImg8bit and gtFine; "bolt" is a car (26), "nut" a person (24). Returns the spec of the split "train"."""
    names = write_images(root / "leftImg8bit" / "train", [f"aachen/a_{number}_leftImg8bit.png" for number in range(len(OBJECTS))])
    for name, objects in zip(names, OBJECTS):
        path = root / "gtFine" / "train" / name.replace("_leftImg8bit", "_gtFine_instanceIds")
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = label_image(objects, [(26, 24)[one[0]] * 1000 + number for number, one in enumerate(objects)])
        labels[labels == 0] = 7  # road: no instances
        Image.fromarray(labels).save(path)
    return f"cityscapes:{root},train"
