"""Checkpoints: safe loading, atomic writing, metadata."""

from detcon_d2.checkpoint.checkpointer import DetConCheckpointer
from detcon_d2.checkpoint.metadata import CheckpointMetadata, pretraining_metadata, read_metadata
from detcon_d2.checkpoint.safe import UnsafeCheckpointError, load_checkpoint_file, load_pickle, load_torch, write_atomically

__all__ = [
    "CheckpointMetadata",
    "DetConCheckpointer",
    "UnsafeCheckpointError",
    "load_checkpoint_file",
    "load_pickle",
    "load_torch",
    "pretraining_metadata",
    "read_metadata",
    "write_atomically",
]
