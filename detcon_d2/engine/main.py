"""What tools/train_net.py runs in every process."""

import argparse
import logging
import sys

from detcon_d2 import d2
from detcon_d2.engine.setup import setup
from detcon_d2.engine.trainer import DetConTrainer

_EPILOG = """
examples:
  pretrain on a folder of images (label maps first: tools/generate_masks.py --help)
    train_net.py --config-file configs/DetCon/detcon_b_R_50_in1k_300ep.yaml --num-gpus 8 \\
        DATASETS.TRAIN '("folder:/data/photos",)' DETCON.MASKS.ROOTS '("/data/photos_fh",)' OUTPUT_DIR output/photos

  no label maps at hand: a 2x2 grid of regions, computed on the fly
    train_net.py --config-file ... DETCON.MASKS.SOURCE grid DETCON.MASKS.GRID 2

  continue a run that was stopped or killed
    train_net.py --config-file ... --resume

  without a GPU, --num-gpus N starts N processes on the CPU (gloo). Under torchrun or srun their environment is used.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's flags, with examples."""
    return d2.default_argument_parser(epilog=_EPILOG)


def main(args: argparse.Namespace) -> None:
    """Pretrain as ``args.config_file`` and ``args.opts`` say; ``args.resume`` continues the last checkpoint of OUTPUT_DIR."""
    if args.eval_only:
        raise SystemExit("train_net.py: --eval-only evaluates detectors; a pretraining config has nothing to evaluate.")
    try:
        cfg, records = setup(args)
        trainer = DetConTrainer(cfg, records)
        trainer.resume_or_load(resume=args.resume)
    except (ValueError, FileNotFoundError) as error:
        # A user's mistake is told without a traceback.
        if d2.comm.is_main_process():
            print(f"train_net.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    trainer.train()
    if d2.comm.is_main_process():
        logging.getLogger(__name__).info("Done. Checkpoints, log.txt, metrics.json and TensorBoard events are in %s.", cfg.OUTPUT_DIR)
