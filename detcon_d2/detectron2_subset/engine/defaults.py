"""Command line, setup and writers that the training tools share."""

import argparse
import os
from typing import Any

import numpy as np
import torch

from ..checkpoint import DetectionCheckpointer
from ..config import CfgNode
from ..data import MetadataCatalog
from ..data import transforms as T
from ..missing import missing_name
from ..modeling import build_model
from ..utils import comm
from ..utils.collect_env import collect_env_info
from ..utils.env import seed_all_rng
from ..utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ..utils.file_io import PathManager
from ..utils.logger import setup_logger

__getattr__ = missing_name(__name__)


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser of the arguments that the tools share; ``epilog`` is the text after the help, by default an example."""
    example = "Example: %(prog)s --num-gpus 8 --config-file cfg.yaml SOLVER.BASE_LR 0.001 OUTPUT_DIR output/run"
    parser = argparse.ArgumentParser(epilog=epilog or example, formatter_class=argparse.RawDescriptionHelpFormatter)
    # The same port for every process of a user, and another for another user of the machine.
    url = f"tcp://127.0.0.1:{49152 + getattr(os, 'getuid', lambda: 0)() % 16384}"
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to config file")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, if there is one")
    parser.add_argument("--eval-only", action="store_true", help="only evaluate")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes, one GPU each, *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument("--dist-url", default=url, help="where the main process listens, as tcp://host:port")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values at the end of the command: PATH.KEY VALUE ...")
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Prepare a run: make OUTPUT_DIR, log to it and to the terminal, log environment, arguments and config, keep ``config.yaml``, seed.

    ``SEED`` plus the rank seeds each process; a negative one draws a seed. ``CUDNN_BENCHMARK`` holds except under ``args.eval_only``.
    """
    rank = comm.get_rank()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    logger.info(f"Running with full config:\n{cfg.dump()}")
    if comm.is_main_process():
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        with PathManager.open(path + ".tmp", "w") as file:
            file.write(cfg.dump())
        os.replace(path + ".tmp", path)
        logger.info(f"Full config saved to {path}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the terminal, to ``metrics.json`` and to TensorBoard, both in ``output_dir``; ``max_iter`` is for the remaining time."""
    PathManager.mkdirs(output_dir)
    return [CommonMetricPrinter(max_iter), JSONWriter(os.path.join(output_dir, "metrics.json")), TensorboardXWriter(output_dir)]


class DefaultPredictor:
    """The model of a config, with the weights of ``MODEL.WEIGHTS``, for one image at a time. ``metadata`` is that of the first test set."""

    def __init__(self, cfg: CfgNode) -> None:
        """ValueError if ``INPUT.FORMAT`` is neither RGB nor BGR."""
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ValueError(f"DefaultPredictor takes models with INPUT.FORMAT RGB or BGR, found {cfg.INPUT.FORMAT!r}.")
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg).eval()
        if cfg.DATASETS.TEST:
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.aug = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """The model's output for an image (H, W, 3) in BGR, 0-255, in coordinates of that image."""
        image = original_image[:, :, ::-1] if self.input_format == "RGB" else original_image
        resized = self.aug.get_transform(image).apply_image(image).astype(np.float32)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).to(self.cfg.MODEL.DEVICE)
        height, width = original_image.shape[:2]
        return self.model([{"image": tensor, "height": height, "width": width}])[0]
