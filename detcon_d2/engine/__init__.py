"""Training and evaluation. ``setup_*`` makes config and records, ``prepare_*`` also builds what runs, ``launch`` starts the processes."""

from detcon_d2.engine.finetune.setup import setup_finetuning
from detcon_d2.engine.finetune.trainer import FinetuneTrainer
from detcon_d2.engine.launch import launch
from detcon_d2.engine.main import argument_parser, main
from detcon_d2.engine.setup import load_config, setup_pretraining
from detcon_d2.engine.trainer import DetConTrainer

__all__ = ["DetConTrainer", "FinetuneTrainer", "argument_parser", "launch", "load_config", "main", "setup_finetuning", "setup_pretraining"]
