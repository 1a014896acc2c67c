"""A small data set of detection and what two backends made of it, for the tests of mapper and loaders."""

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

NAME = "detcon_test_detections"
_SIZES = [(40, 60), (60, 40), (50, 50), (45, 61)]


def write_data_set(folder: Path, count: int = 8, seed: int = 0) -> str:
    """``count`` noise pictures in ``folder``, and a COCO json of triangles, with one crowd in each picture; returns the json's path."""
    rng = np.random.default_rng(seed)
    content: dict[str, list[dict]] = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]}
    for index in range(count):
        height, width = _SIZES[index % len(_SIZES)]
        Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(folder / f"{index}.png")
        content["images"].append({"id": index, "file_name": f"{index}.png", "height": height, "width": width})
        for _ in range(3):
            xs, ys = rng.uniform(0, width, 3), rng.uniform(0, height, 3)
            box = [xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)]
            _annotate(content, index, int(rng.choice([3, 7])), box, [np.stack([xs, ys], axis=1).ravel().tolist()], crowd=0)
        bits = np.zeros((height, width), dtype=np.uint8, order="F")
        bits[5:20, 10:30] = 1
        runs = coco_mask.encode(bits)
        _annotate(content, index, 7, [10, 5, 20, 15], {"size": runs["size"], "counts": runs["counts"].decode()}, crowd=1)
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return str(path)


def _annotate(content: dict, image: int, category: int, box: list[float], segmentation: Any, crowd: int) -> None:
    one = {"id": len(content["annotations"]) + 1, "image_id": image, "category_id": category, "bbox": [float(value) for value in box]}
    content["annotations"].append(one | {"segmentation": segmentation, "iscrowd": crowd, "area": 1.0})


@contextmanager
def registered(backend: Backend, path: str, images: Path | None = None) -> Iterator[str]:
    """The json at ``path`` in the catalog under :data:`NAME`; forgotten afterwards."""
    data = backend.get("data")
    backend.get("data.datasets").register_coco_instances(NAME, {}, path, str(images or Path(path).parent))
    try:
        yield NAME
    finally:
        data.DatasetCatalog.remove(NAME)
        data.MetadataCatalog.remove(NAME)


def small_config(backend: Backend, *options: object) -> Any:
    """Defaults with masks, data set :data:`NAME`, small images and batches of two in this process, and ``KEY, VALUE`` options."""
    cfg = backend.get("config").get_cfg()
    cfg.merge_from_list(["DATASETS.TRAIN", (NAME,), "DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2, "MODEL.MASK_ON", True])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (32, 48, 64), "INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 60, *options])
    return cfg


def same_draws(ours: Backend, theirs: Backend, make: Callable[[Backend], list[dict]], seed: int = 5) -> list[tuple[dict, dict]]:
    """What ``make`` gives on each backend from one seed of every generator, item by item."""
    results = []
    for backend in (ours, theirs):
        np.random.seed(seed)
        torch.manual_seed(seed)
        results.append(make(backend))
    return list(zip(*results, strict=True))


def assert_same_item(ours: dict, theirs: dict) -> int:
    """Image, instances and all other keys are identical, types included; returns the number of instances."""
    assert ours.keys() == theirs.keys()
    tensors = {"image", "instances"}
    assert {key: ours[key] for key in ours.keys() - tensors} == {key: theirs[key] for key in theirs.keys() - tensors}
    assert ours["image"].dtype == theirs["image"].dtype and torch.equal(ours["image"], theirs["image"])
    if "instances" not in ours:
        return 0
    assert ours["instances"].image_size == theirs["instances"].image_size
    assert fields(ours["instances"]) == fields(theirs["instances"])
    return len(ours["instances"])


def fields(instances: Any) -> dict[str, tuple]:
    """Every field of Instances as type name and plain lists."""
    plain = {}
    for name, value in instances.get_fields().items():
        if hasattr(value, "polygons"):
            content = [[polygon.tolist() for polygon in instance] for instance in value.polygons]
        else:
            content = getattr(value, "tensor", value).tolist()
        plain[name] = (type(value).__name__, content)
    return plain
