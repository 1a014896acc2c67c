"""The data sets of COCO by name, in the folder that the environment variable DETECTRON2_DATASETS names (default: "datasets")."""

import json
import os
from pathlib import Path

from .coco import register_coco_instances

# Name -> json file in coco/annotations, folder of images in coco.
_COCO = {
    "coco_2014_train": ("instances_train2014", "train2014"),
    "coco_2014_val": ("instances_val2014", "val2014"),
    "coco_2014_minival": ("instances_minival2014", "val2014"),
    "coco_2014_valminusminival": ("instances_valminusminival2014", "val2014"),
    "coco_2017_train": ("instances_train2017", "train2017"),
    "coco_2017_val": ("instances_val2017", "val2017"),
    "coco_2017_val_100": ("instances_val2017_100", "val2017"),
    "coco_2017_test": ("image_info_test2017", "test2017"),
    "coco_2017_test-dev": ("image_info_test-dev2017", "test2017"),
}


def register_all_coco(root: str) -> None:
    """Register the data sets coco_2014_... and coco_2017_... in the folder ``coco`` of ``root``, with the names and ids of the 80 classes.

    No file in ``root`` is read before a data set is used.
    """
    names = json.loads((Path(__file__).parent / "coco_categories.json").read_text(encoding="utf-8"))
    contiguous = {int(category): index for index, category in enumerate(names)}
    folder = os.path.join(root, "coco")
    for name, (json_name, images) in _COCO.items():
        metadata = {"thing_classes": list(names.values()), "thing_dataset_id_to_contiguous_id": contiguous}
        register_coco_instances(name, metadata, os.path.join(folder, "annotations", f"{json_name}.json"), os.path.join(folder, images))


register_all_coco(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
