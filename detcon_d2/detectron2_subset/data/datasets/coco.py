"""Records from a json file in COCO's instance format."""

import contextlib
import io
import logging
import os

from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ...missing import missing_name
from ...structures import BoxMode
from ...utils.file_io import PathManager
from ..catalog import DatasetCatalog, MetadataCatalog

__getattr__ = missing_name(__name__)

_KEYS = ("iscrowd", "bbox", "keypoints", "category_id")
_logger = logging.getLogger("detectron2.data.datasets.coco")


def register_coco_instances(name: str, metadata: dict, json_file: str, image_root: str | os.PathLike) -> None:
    """Register :func:`load_coco_json` of a json file and a folder of images as data set ``name``, with ``metadata`` and the two paths."""
    assert isinstance(name, str), f"A data set name is a str, found {name!r}."
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)


def load_coco_json(json_file: str, image_root: str | os.PathLike, dataset_name: str | None = None) -> list[dict]:
    """Return one record per image, in the order of the ids: "file_name", "height", "width", "image_id", "annotations".

    An annotation has "bbox" (XYWH_ABS) with "bbox_mode", "category_id", and, if the json file has them, "iscrowd", "keypoints" (shifted by
    0.5 to pixel centres) and "segmentation" (valid polygons, or compressed RLE). An annotation whose polygons are all invalid is left out,
    and counted in the log. With ``dataset_name``, category ids become 0, 1, ... in the order of the ids, and the metadata of that data
    set get "thing_classes" and "thing_dataset_id_to_contiguous_id".

    KeyError for an unknown category, ValueError for an empty box, AssertionError for annotation ids that are not unique.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(PathManager.get_local_path(json_file))
    unique = len(coco.anns) == len(coco.dataset.get("annotations", ()))
    # The annotation ids of COCO 2014's minival are known to repeat.
    assert unique or "minival" in json_file, f"Annotation ids in {json_file} are not unique."
    categories = None if dataset_name is None else _contiguous_categories(coco, dataset_name)
    records = []
    for image_id, image in sorted(coco.imgs.items()):
        converted = [_annotation(one, categories) for one in coco.imgToAnns.get(image_id, ())]
        record = {"file_name": os.path.join(image_root, image["file_name"]), "height": image["height"], "width": image["width"]}
        records.append(record | {"image_id": image_id, "annotations": [one for one in converted if one is not None]})
    _report(coco, records, json_file)
    return records


def _contiguous_categories(coco: COCO, dataset_name: str) -> dict[int, int]:
    ids = sorted(coco.getCatIds())
    contiguous = {category: index for index, category in enumerate(ids)}
    names = [category["name"] for category in coco.loadCats(ids)]
    MetadataCatalog.get(dataset_name).set(thing_classes=names, thing_dataset_id_to_contiguous_id=contiguous)
    if ids and (ids[0], ids[-1]) != (1, len(ids)):
        _logger.warning("Category ids in annotations are not in [1, #categories]; they are mapped to contiguous ids.")
    return contiguous


def _annotation(source: dict, categories: dict[int, int] | None) -> dict | None:
    """Return None if no polygon is valid."""
    assert source.get("ignore", 0) == 0, '"ignore" in a COCO json is not supported.'
    result = {key: source[key] for key in _KEYS if key in source} | {"bbox_mode": BoxMode.XYWH_ABS}
    if "bbox" in result and not result["bbox"]:
        raise ValueError(f"An annotation of image {source['image_id']} has an empty 'bbox'; this is not valid COCO format.")
    if source.get("segmentation"):
        result["segmentation"] = _segmentation(source["segmentation"])
        if not result["segmentation"]:
            return None
    if result.get("keypoints"):
        result["keypoints"] = [value if index % 3 == 2 else value + 0.5 for index, value in enumerate(result["keypoints"])]
    if categories is not None:
        if source["category_id"] not in categories:
            raise KeyError(f"category_id {source['category_id']} does not exist in 'categories' of the json file.")
        result["category_id"] = categories[source["category_id"]]
    return result


def _segmentation(source: list | dict) -> list | dict:
    if isinstance(source, dict):
        return coco_mask.frPyObjects(source, *source["size"]) if isinstance(source["counts"], list) else source
    return [polygon for polygon in source if len(polygon) >= 6 and len(polygon) % 2 == 0]


def _report(coco: COCO, records: list[dict], json_file: str) -> None:
    _logger.info("Loaded %d images in COCO format from %s", len(records), json_file)
    matched = sum(len(coco.imgToAnns.get(image_id, ())) for image_id in coco.imgs)
    if matched < len(coco.anns):
        _logger.warning("%s contains %d annotations, but only %d of them match images in the file.", json_file, len(coco.anns), matched)
    invalid = matched - sum(len(record["annotations"]) for record in records)
    if invalid:
        _logger.warning("Left out %d instances of %s whose polygons are all invalid.", invalid, json_file)
