"""Annotated images as a COCO json, for parts of a data set."""

import json
import os
from pathlib import Path

from detcon_d2.io.annotated.dataset import AnnotatedData
from detcon_d2.io.atomic import write_bytes_atomically

_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")


def write_coco(data: AnnotatedData, path: Path) -> str:
    """Write the images' annotations as a COCO json, whose folder is created; returns the spec, with the images where they are."""
    root = os.path.commonpath([os.path.dirname(record["file_name"]) for record in data.records])
    images = [
        {"id": one["image_id"], "file_name": os.path.relpath(one["file_name"], root), "height": one["height"], "width": one["width"]}
        for one in data.records
    ]
    things = [thing | {"image_id": one["image_id"]} for one in data.records for thing in one["annotations"]]
    content = {
        "images": images,
        "categories": [{"id": one, "name": name} for one, name in data.categories.items()],
        "annotations": [{key: thing[key] for key in _KEYS if key in thing} for thing in things],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, json.dumps(content).encode())
    return f"coco:{path},{root}"
