"""COCO-format data sets; public names of ``detectron2.data.datasets``."""

from ...missing import missing_name
from . import builtin
from .coco import load_coco_json, register_coco_instances

__all__ = ["builtin", "load_coco_json", "register_coco_instances"]

__getattr__ = missing_name(__name__)
