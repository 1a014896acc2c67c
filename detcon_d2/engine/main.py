"""What train_net runs in every process."""

import argparse
import logging
import os
import sys
from collections.abc import Callable

from detcon_d2 import d2
from detcon_d2.data.reading import RefusedImageError
from detcon_d2.engine.allocator import keep_freed_memory
from detcon_d2.engine.finetune.evaluate import prepare_evaluation
from detcon_d2.engine.finetune.setup import setup_finetuning
from detcon_d2.engine.finetune.trainer import FinetuneTrainer
from detcon_d2.engine.setup import SharedError, load_config, setup_pretraining
from detcon_d2.engine.trainer import DetConTrainer
from detcon_d2.methods import pretraining_class

_EPILOG = """
examples:
  pretrain on a folder of images (first make label maps: generate_masks --help)
    %(prog)s --config-file configs/DetCon/detcon_b_R_50_in1k_300ep.yaml --num-gpus 8 \\
        DATASETS.TRAIN '("folder:/data/photos",)' DETCON.MASKS.ROOTS '("/data/photos_fh",)' OUTPUT_DIR output/photos

  without label maps: a 2x2 grid of regions, computed during training
    %(prog)s --config-file ... DETCON.MASKS.SOURCE grid DETCON.MASKS.GRID 2

  fine-tune a detector, then evaluate any checkpoint of it (results.json in OUTPUT_DIR)
    %(prog)s --config-file configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_standard_1x.yaml --num-gpus 8 MODEL.WEIGHTS backbone.pkl
    %(prog)s --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth

  continue a run that was stopped or killed
    %(prog)s --config-file ... --resume

  --config-file takes a path or, where there is no such file, the name of a config of this package (with or without configs/).
  Without a GPU, --num-gpus N starts N processes on the CPU (gloo). Under torchrun or srun, the processes of the job are used.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's flags, with examples."""
    return d2.default_argument_parser(epilog=_EPILOG)


def main(args: argparse.Namespace) -> None:
    """Pretrain, fine-tune or evaluate, as the config of ``args`` specifies; ``args.resume`` continues the run in OUTPUT_DIR."""
    # Without this, a full disk would print a traceback for each line of the log.
    logging.raiseExceptions = False
    try:
        run = prepare(args)
    except (ValueError, OSError) as error:
        # These are mistakes of the user or of the machine: print the message without a traceback.
        if d2.comm.is_main_process() or not isinstance(error, SharedError):
            print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    try:
        run()
    except RefusedImageError as error:
        raise SystemExit(f"{os.path.basename(sys.argv[0])}: {error}") from None


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Do everything in which a mistake of the user can show, and return the function that trains or evaluates."""
    # Only the name of the architecture is needed here. The setup of the job reads and checks everything else.
    pretraining = pretraining_class(load_config(args.config_file, args.opts).MODEL.META_ARCHITECTURE) is not None
    if pretraining and args.eval_only:
        raise ValueError("--eval-only evaluates detectors, but this is a pretraining config.")
    cfg, records = setup_pretraining(args) if pretraining else setup_finetuning(args)
    if args.eval_only:
        return prepare_evaluation(cfg, args.resume)
    if pretraining and cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    trainer = DetConTrainer(cfg, records) if pretraining else FinetuneTrainer(cfg, records)
    trainer.resume_or_load(resume=args.resume)

    def train() -> None:
        trainer.train()
        if d2.comm.is_main_process():
            message = "Done. Checkpoints, log.txt, metrics.json and TensorBoard events are in %s."
            logging.getLogger(__name__).info(message, cfg.OUTPUT_DIR)

    return train
