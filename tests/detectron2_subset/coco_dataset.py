"""A small random data set in COCO format, and predictions for it, for every backend. Spawned processes import this module."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from tests.detectron2_subset.conftest import Backend

NAME = "detcon_test_coco_dataset"
CATEGORIES = {3: "cup", 5: "dog", 9: "tree", 12: "never annotated"}
_SIZES = [(170, 220), (220, 170), (180, 180), (175, 221)]


def write_dataset(folder: Path, count: int = 8, seed: int = 0) -> Path:
    """Write ``count`` noise images, wide, high and square, and ``instances.json``; return the path of the latter.

    Annotations are polygons, RLE and crowds of all three size classes, in three of four categories; one image has none.
    """
    # The legacy generator: its numbers never change, and numbers of Detectron2 on these images are recorded.
    rng = np.random.RandomState(seed)
    images, annotations = [], []
    for index in range(count):
        height, width = _SIZES[index % len(_SIZES)]
        Image.fromarray(rng.randint(0, 256, (height, width, 3)).astype(np.uint8)).save(folder / f"{index}.png")
        images.append({"id": 10 * index, "file_name": f"{index}.png", "height": height, "width": width})
        for _ in range(4 if index < count - 1 else 0):
            box = _random_box(rng, height, width)
            annotation = {"id": len(annotations) + 1, "image_id": 10 * index, "category_id": int(rng.choice([3, 5, 9])), "bbox": box}
            annotation |= {"iscrowd": 0, "area": box[2] * box[3], "segmentation": [_diamond(box)]}
            if rng.rand() < 0.3:
                rle = coco_mask.encode(np.asfortranarray(_rectangle(box, height, width)))
                annotation |= {"iscrowd": 1, "segmentation": rle | {"counts": rle["counts"].decode()}}
            annotations.append(annotation)
    path = folder / "instances.json"
    categories = [{"id": id, "name": name} for id, name in CATEGORIES.items()]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def _random_box(rng: np.random.RandomState, height: int, width: int) -> list[float]:
    w, h = rng.uniform(12, 165, 2)
    return [float(v) for v in (rng.uniform(0, width - w), rng.uniform(0, height - h), w, h)]


def _diamond(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y + h / 2, x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h]


def _rectangle(box: list[float], height: int, width: int) -> np.ndarray:
    x, y, w, h = (round(value) for value in box)
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def predict(json_file: Path, seed: int = 1) -> tuple[list[dict], list[dict[str, np.ndarray]]]:
    """Return a record (id and size) and predictions for each image.

    Predictions are the annotations, moved by a few pixels, some of another class or missing, and random false ones.
    """
    source = json.loads(Path(json_file).read_text())
    rng = np.random.default_rng(seed)
    inputs = [{"image_id": image["id"], "height": image["height"], "width": image["width"]} for image in source["images"]]
    return inputs, [_perturbed(source, image, rng) for image in source["images"]]


def _perturbed(source: dict, image: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    height, width = image["height"], image["width"]
    contiguous = {category["id"]: i for i, category in enumerate(source["categories"])}
    found = {"boxes": [], "scores": [], "classes": [], "masks": []}
    for annotation in source["annotations"]:
        if annotation["image_id"] != image["id"] or rng.random() < 0.2:
            continue
        shape = annotation["segmentation"]
        raw = isinstance(shape, list) or isinstance(shape["counts"], list)
        rle = coco_mask.frPyObjects(shape, height, width) if raw else shape
        mask = coco_mask.decode(coco_mask.merge(rle) if isinstance(rle, list) else rle)
        x, y, w, h = np.array(annotation["bbox"]) + rng.normal(0, 5, 4)
        found["boxes"].append([x, y, x + max(w, 1), y + max(h, 1)])
        found["masks"].append(np.roll(mask, rng.integers(-9, 10, 2), axis=(0, 1)))
        found["scores"].append(rng.random())
        wrong = rng.random() < 0.1
        found["classes"].append(int(rng.integers(len(contiguous))) if wrong else contiguous[annotation["category_id"]])
    # False ones, of which the area of the mask is not that of the box.
    for index in range(3):
        x, y, w, h = rng.uniform(5, [width / 2, height / 2, width / 2, height / 2])
        found["boxes"].append([x, y, x + w, y + h])
        found["masks"].append(rng.random((height, width)) < 0.2)
        found["scores"].append(rng.random())
        found["classes"].append(index % len(contiguous))
    return {key: np.array(value) for key, value in found.items()}


def to_output(backend: Backend, record: dict, arrays: dict[str, np.ndarray], masks: bool = True, keep: slice = slice(None)) -> dict:
    """Return the output of a model of ``backend`` for one image."""
    structures = backend.get("structures")
    fields = {
        "pred_boxes": structures.Boxes(torch.tensor(arrays["boxes"][keep], dtype=torch.float32).reshape(-1, 4)),
        "scores": torch.tensor(arrays["scores"][keep], dtype=torch.float32),
        "pred_classes": torch.tensor(arrays["classes"][keep], dtype=torch.int64),
    }
    if masks:
        fields["pred_masks"] = torch.tensor(arrays["masks"][keep], dtype=torch.bool)
    return {"instances": structures.Instances((record["height"], record["width"]), **fields)}


@contextmanager
def registered(backend: Backend, json_file: Path, images: Path | None = None) -> Iterator[list[dict]]:
    """Register the json file as :data:`NAME` during the block; returns its records, whose loading fills the metadata."""
    data = backend.get("data")
    backend.get("data.datasets").register_coco_instances(NAME, {}, str(json_file), str(images or Path(json_file).parent))
    try:
        yield data.DatasetCatalog.get(NAME)
    finally:
        data.DatasetCatalog.remove(NAME)
        data.MetadataCatalog.remove(NAME)


def small_config(backend: Backend, *options: object) -> Any:
    """Defaults with masks and small images, and ``KEY, VALUE`` options."""
    cfg = backend.get("config").get_cfg()
    cfg.merge_from_list(["MODEL.MASK_ON", True, "INPUT.MIN_SIZE_TRAIN", (32, 48, 64), "INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 60])
    cfg.merge_from_list(list(options))
    return cfg


def same_seed(ours: Backend, theirs: Backend, make: Callable[[Backend], list[dict]], seed: int = 5) -> list[tuple[dict, dict]]:
    """Return what ``make`` returns on each backend with the same seed of all generators, item by item."""
    results = []
    for backend in (ours, theirs):
        np.random.seed(seed)
        torch.manual_seed(seed)
        results.append(make(backend))
    return list(zip(*results, strict=True))


def assert_same_item(ours: dict, theirs: dict) -> int:
    """Compare image, instances and all other keys, types included; return the number of instances."""
    assert ours.keys() == theirs.keys()
    tensors = {"image", "instances"}
    assert {key: ours[key] for key in ours.keys() - tensors} == {key: theirs[key] for key in theirs.keys() - tensors}
    assert ours["image"].dtype == theirs["image"].dtype and torch.equal(ours["image"], theirs["image"])
    if "instances" not in ours:
        return 0
    assert ours["instances"].image_size == theirs["instances"].image_size
    assert _plain(ours["instances"]) == _plain(theirs["instances"])
    return len(ours["instances"])


def _plain(instances: Any) -> dict[str, tuple]:
    """Every field of Instances as type name and plain lists."""
    plain = {}
    for name, value in instances.get_fields().items():
        if hasattr(value, "polygons"):
            content = [[polygon.tolist() for polygon in instance] for instance in value.polygons]
        else:
            content = getattr(value, "tensor", value).tolist()
        plain[name] = (type(value).__name__, content)
    return plain
