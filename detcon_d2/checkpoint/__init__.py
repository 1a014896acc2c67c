"""Checkpoints: safe loading, metadata, conversion for detectors, the model zoo, and whether config and weights agree.

Importing this package registers the names ``detcon://...`` with Detectron2's PathManager.
"""

from detcon_d2.checkpoint.checkpointer import DetConCheckpointer
from detcon_d2.checkpoint.compatibility import check_weights, describe_missing
from detcon_d2.checkpoint.metadata import CheckpointMetadata, finetuning_metadata, pretraining_metadata, read_metadata
from detcon_d2.checkpoint.run_config import RunConfig
from detcon_d2.checkpoint.safe_load.files import load_checkpoint_file
from detcon_d2.checkpoint.safe_load.pickles import UnsafeCheckpointError
from detcon_d2.checkpoint.start import describe_own, is_pretraining_checkpoint, load_encoder
from detcon_d2.checkpoint.zoo.handler import resolve_entry

__all__ = ["CheckpointMetadata", "DetConCheckpointer", "RunConfig", "UnsafeCheckpointError", "check_weights", "describe_missing"]
__all__ += ["describe_own", "finetuning_metadata", "is_pretraining_checkpoint", "load_checkpoint_file", "load_encoder"]
__all__ += ["pretraining_metadata", "read_metadata", "resolve_entry"]
