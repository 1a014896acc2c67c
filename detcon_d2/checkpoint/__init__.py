"""Checkpoints: safe loading, atomic writing, metadata, conversion for detectors, the model zoo, and whether config and weights agree."""

from detcon_d2.checkpoint.checkpointer import DetConCheckpointer
from detcon_d2.checkpoint.compatibility import check_weights, describe_missing, disagreements
from detcon_d2.checkpoint.convert.conversion import TARGETS, Conversion, prepare_conversion
from detcon_d2.checkpoint.convert.key_maps import BRANCHES, backbone_shapes, detectron2_key_map, torchvision_key_map
from detcon_d2.checkpoint.convert.readers import Backbone, read_checkpoint
from detcon_d2.checkpoint.convert.spec import BackboneSpec, spec_from_metadata, spec_from_tensors
from detcon_d2.checkpoint.convert.style import IMAGENET, STATISTICS, UNIT, Style
from detcon_d2.checkpoint.convert.styles import STYLES, list_styles
from detcon_d2.checkpoint.metadata import CheckpointMetadata, pretraining_metadata, read_metadata
from detcon_d2.checkpoint.safe_load.errors import UnsafeCheckpointError
from detcon_d2.checkpoint.safe_load.files import load_checkpoint_file
from detcon_d2.checkpoint.zoo.download import DownloadError
from detcon_d2.checkpoint.zoo.entries import ZOO, Entry, Result, find_entry
from detcon_d2.checkpoint.zoo.resolve import ChecksumError, resolve_entry

__all__ = [
    "BRANCHES",
    "IMAGENET",
    "STATISTICS",
    "STYLES",
    "TARGETS",
    "UNIT",
    "ZOO",
    "Backbone",
    "BackboneSpec",
    "CheckpointMetadata",
    "ChecksumError",
    "Conversion",
    "DetConCheckpointer",
    "DownloadError",
    "Entry",
    "Result",
    "Style",
    "UnsafeCheckpointError",
    "backbone_shapes",
    "check_weights",
    "describe_missing",
    "detectron2_key_map",
    "disagreements",
    "find_entry",
    "list_styles",
    "load_checkpoint_file",
    "prepare_conversion",
    "pretraining_metadata",
    "read_checkpoint",
    "read_metadata",
    "resolve_entry",
    "spec_from_metadata",
    "spec_from_tensors",
    "torchvision_key_map",
]
