"""Catalogs, data sets and loaders; public names of ``detectron2.data``."""

from ..missing import missing_name
from . import datasets, samplers, transforms
from .build import get_detection_dataset_dicts
from .catalog import DatasetCatalog, Metadata, MetadataCatalog
from .common import DatasetFromList, MapDataset

__all__ = ["DatasetCatalog", "DatasetFromList", "MapDataset", "Metadata", "MetadataCatalog", "get_detection_dataset_dicts"]
__all__ += ["datasets", "samplers", "transforms"]

__getattr__ = missing_name(__name__)
