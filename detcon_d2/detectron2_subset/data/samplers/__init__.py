"""Samplers for several processes; public names of ``detectron2.data.samplers``."""

from ...missing import missing_name
from .distributed_sampler import InferenceSampler, TrainingSampler

__all__ = ["InferenceSampler", "TrainingSampler"]

__getattr__ = missing_name(__name__)
