"""Data sets, label maps of their images, the mapper and the loaders of pretraining."""

from detcon_d2.data.datasets import count_classes, load_records, load_training_records, records_digest
from detcon_d2.data.label_maps import describe_masks
from detcon_d2.data.loader import build_pretraining_loader, build_whole_image_loader
from detcon_d2.data.mapper import PretrainingMapper

__all__ = ["PretrainingMapper", "build_pretraining_loader", "build_whole_image_loader", "count_classes", "describe_masks"]
__all__ += ["load_records", "load_training_records", "records_digest"]
