"""Saving and loading checkpoints."""

from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from ..missing import missing_name
from .detection_checkpoint import DetectionCheckpointer

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]
__getattr__ = missing_name(__name__)
