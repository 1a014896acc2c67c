"""Training: set-up, the trainer and its hooks, starting processes."""

from detcon_d2.engine.finetune.setup import setup_finetuning
from detcon_d2.engine.finetune.trainer import FinetuneTrainer
from detcon_d2.engine.hooks import EMAHook, StopOnSignalHook, ThroughputHook
from detcon_d2.engine.launch import launch
from detcon_d2.engine.main import argument_parser, main
from detcon_d2.engine.setup import load_config, setup
from detcon_d2.engine.step import NonFiniteLossError
from detcon_d2.engine.trainer import DetConTrainer

__all__ = [
    "DetConTrainer",
    "EMAHook",
    "FinetuneTrainer",
    "NonFiniteLossError",
    "StopOnSignalHook",
    "ThroughputHook",
    "argument_parser",
    "launch",
    "load_config",
    "main",
    "setup",
    "setup_finetuning",
]
