"""Data sets, two aligned views, photometric augmentation, mapper and loader."""

from detcon_d2.data.datasets import count_classes, load_records, load_training_records, records_digest
from detcon_d2.data.label_maps import describe_masks
from detcon_d2.data.loader import build_detcon_train_loader, build_full_image_loader
from detcon_d2.data.mapper import DetConMapper
from detcon_d2.views.geometry import ViewAugmentation, ViewTransform

__all__ = [
    "DetConMapper",
    "ViewAugmentation",
    "ViewTransform",
    "build_detcon_train_loader",
    "build_full_image_loader",
    "count_classes",
    "describe_masks",
    "load_records",
    "load_training_records",
    "records_digest",
]
