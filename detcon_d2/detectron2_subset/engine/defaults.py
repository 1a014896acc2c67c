"""The command line and the setup that the training tools share."""

import argparse
import os

import torch

from ..config import CfgNode
from ..missing import missing_name
from ..utils import comm
from ..utils.collect_env import collect_env_info
from ..utils.env import seed_all_rng
from ..utils.file_io import PathManager
from ..utils.logger import setup_logger

__getattr__ = missing_name(__name__)


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a parser of the arguments that the tools share; ``epilog`` is the text after the help (default: an example)."""
    example = "Example: %(prog)s --num-gpus 8 --config-file cfg.yaml SOLVER.BASE_LR 0.001 OUTPUT_DIR output/run"
    parser = argparse.ArgumentParser(epilog=epilog or example, formatter_class=argparse.RawDescriptionHelpFormatter)
    # The port depends on the user: all processes of one user find the same port, and another user of the machine gets another one.
    url = f"tcp://127.0.0.1:{49152 + getattr(os, 'getuid', lambda: 0)() % 16384}"
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to config file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR, if there is one")
    parser.add_argument("--eval-only", action="store_true", help="only evaluate")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of processes, one GPU each, *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument("--dist-url", default=url, help="address at which the main process listens, as tcp://host:port")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values at the end of the command: PATH.KEY VALUE ...")
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Prepare a run: create OUTPUT_DIR, log the environment, the arguments and the config, write ``config.yaml``, seed the generators.

    Each process is seeded with ``SEED`` + rank; a negative ``SEED`` means a random seed. ``CUDNN_BENCHMARK`` has no effect with
    ``args.eval_only``.
    """
    rank = comm.get_rank()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    config = cfg.dump()
    logger.info(f"Running with full config:\n{config}")
    if comm.is_main_process():
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        with PathManager.open(path + ".tmp", "w") as file:
            file.write(config)
        os.replace(path + ".tmp", path)
        logger.info(f"Full config saved to {path}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
