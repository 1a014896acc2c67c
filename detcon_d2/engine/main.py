"""What train_net runs in every process."""

import argparse
import logging
import os
import sys
from collections.abc import Callable

from detcon_d2 import d2
from detcon_d2.engine.allocator import keep_freed_memory
from detcon_d2.engine.finetune.evaluate import prepare_evaluation
from detcon_d2.engine.finetune.setup import setup_finetuning
from detcon_d2.engine.finetune.trainer import FinetuneTrainer
from detcon_d2.engine.setup import load_config, setup
from detcon_d2.engine.step import StepTrainer
from detcon_d2.engine.trainer import DetConTrainer
from detcon_d2.methods.registry import pretraining_class

_EPILOG = """
examples:
  pretrain on a folder of images (label maps first: generate_masks --help)
    %(prog)s --config-file configs/DetCon/detcon_b_R_50_in1k_300ep.yaml --num-gpus 8 \\
        DATASETS.TRAIN '("folder:/data/photos",)' DETCON.MASKS.ROOTS '("/data/photos_fh",)' OUTPUT_DIR output/photos

  no label maps at hand: a 2x2 grid of regions, computed on the fly
    %(prog)s --config-file ... DETCON.MASKS.SOURCE grid DETCON.MASKS.GRID 2

  fine-tune a detector, then evaluate any checkpoint of it (results.json in OUTPUT_DIR)
    %(prog)s --config-file configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_standard_1x.yaml --num-gpus 8 MODEL.WEIGHTS backbone.pkl
    %(prog)s --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth

  continue a run that was stopped or killed
    %(prog)s --config-file ... --resume

  --config-file takes a path or, where there is no such file, the name of a config of this package (with or without configs/).
  Without a GPU, --num-gpus N starts N processes on the CPU (gloo). Under torchrun or srun their environment is used.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's flags, with examples."""
    return d2.default_argument_parser(epilog=_EPILOG)


def main(args: argparse.Namespace) -> None:
    """Pretrain, fine-tune or evaluate, as ``args.config_file`` and ``args.opts`` say; ``args.resume`` continues the run in OUTPUT_DIR."""
    try:
        # Only the name of the architecture matters here; the job's own set-up reads and checks the rest.
        architecture = load_config(args.config_file, args.opts).MODEL.META_ARCHITECTURE
        run = prepare_pretraining(args) if pretraining_class(architecture) else prepare_finetuning(args)
    except (ValueError, FileNotFoundError) as error:
        # A user's mistake is told without a traceback.
        if d2.comm.is_main_process():
            print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    run()


def prepare_pretraining(args: argparse.Namespace) -> Callable[[], None]:
    """Everything that a user's mistake can break; returns what trains."""
    if args.eval_only:
        raise ValueError("--eval-only evaluates detectors; a pretraining config has nothing to evaluate.")
    cfg, records = setup(args)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    trainer = DetConTrainer(cfg, records)
    return _prepare_training(trainer, args.resume)


def prepare_finetuning(args: argparse.Namespace) -> Callable[[], None]:
    """The same for a detector, or for its evaluation alone."""
    cfg, records = setup_finetuning(args)
    if args.eval_only:
        return prepare_evaluation(cfg, args.resume)
    return _prepare_training(FinetuneTrainer(cfg, records), args.resume)


def _prepare_training(trainer: StepTrainer, resume: bool) -> Callable[[], None]:
    trainer.resume_or_load(resume=resume)

    def train() -> None:
        trainer.train()
        if d2.comm.is_main_process():
            folder = trainer.cfg.OUTPUT_DIR
            logging.getLogger(__name__).info("Done. Checkpoints, log.txt, metrics.json and TensorBoard events are in %s.", folder)

    return train
