"""Catalogs, data sets and loaders; public names of ``detectron2.data``."""

from ..missing import missing_name
from . import datasets, samplers, transforms
from .build import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts
from .catalog import DatasetCatalog, Metadata, MetadataCatalog
from .common import DatasetFromList, MapDataset
from .dataset_mapper import DatasetMapper

__all__ = ["DatasetCatalog", "DatasetFromList", "DatasetMapper", "MapDataset", "Metadata", "MetadataCatalog"]
__all__ += ["build_detection_test_loader", "build_detection_train_loader", "get_detection_dataset_dicts"]
__all__ += ["datasets", "samplers", "transforms"]

__getattr__ = missing_name(__name__)
