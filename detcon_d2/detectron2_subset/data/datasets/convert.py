"""Records of a registered data set as a json of COCO's instance format."""

import json
import logging
import os
from typing import Any

from pycocotools import mask as coco_mask

from ...structures import BoxMode, PolygonMasks
from ...utils import comm
from ...utils.file_io import PathManager
from ..catalog import DatasetCatalog, MetadataCatalog

_logger = logging.getLogger("detectron2.data.datasets.coco")


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write :func:`convert_to_coco_dict` of a data set to ``output_file``, unless it is there already and ``allow_cached``."""
    if allow_cached and PathManager.exists(output_file):
        _logger.warning(f"{output_file}, from an earlier run, is used for {dataset_name!r}; remove it if the data set has changed.")
        return
    PathManager.mkdirs(os.path.dirname(output_file) or ".")
    # All processes may be here at once.
    temporary = f"{output_file}.{comm.get_rank()}.tmp"
    with PathManager.open(temporary, "w") as file:
        json.dump(convert_to_coco_dict(dataset_name), file)
    os.replace(temporary, output_file)
    _logger.info(f"{dataset_name!r} in COCO format is in {output_file}")


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """The data set ``dataset_name``, whose metadata has "thing_classes", in COCO's format, without keypoints.

    Categories get the ids of "thing_dataset_id_to_contiguous_id" in the metadata, else 0, 1 ...; an image without "image_id" its position.
    Boxes are xywh, rounded to a thousandth of a pixel. An area is that of the mask, else of the box.
    """
    metadata = MetadataCatalog.get(dataset_name)
    dataset_ids = {index: id for id, index in metadata.get("thing_dataset_id_to_contiguous_id", {}).items()}
    categories = [{"id": dataset_ids.get(index, index), "name": name} for index, name in enumerate(metadata.thing_classes)]
    images, annotations = [], []
    for position, record in enumerate(DatasetCatalog.get(dataset_name)):
        image = {"id": record.get("image_id", position), "file_name": str(record["file_name"])}
        images.append(image | {"width": int(record["width"]), "height": int(record["height"])})
        for source in record.get("annotations", ()):
            converted = _annotation(source) | {"id": len(annotations) + 1, "image_id": image["id"]}
            annotations.append(converted | {"category_id": categories[source["category_id"]]["id"]})
    info = {"description": f"{dataset_name}, converted from the records of its registration"}
    return {"info": info, "images": images, "categories": categories, "annotations": annotations}


def _annotation(source: dict) -> dict:
    box = [float(value) for value in BoxMode.convert(list(source["bbox"]), source["bbox_mode"], BoxMode.XYWH_ABS)]
    result = {"bbox": [round(value, 3) for value in box], "area": box[2] * box[3], "iscrowd": int(source.get("iscrowd", 0))}
    mask = source.get("segmentation")
    if isinstance(mask, dict):
        counts = mask["counts"]
        result["area"] = float(coco_mask.area(mask))
        result["segmentation"] = mask | {"counts": counts if isinstance(counts, str) else counts.decode("ascii")}
    elif mask:
        result["area"] = float(PolygonMasks([mask]).area()[0])
        result["segmentation"] = [[float(value) for value in polygon] for polygon in mask]
    return result
