#!/usr/bin/env python
"""Speed of the bundled subset compared with the installed Detectron2: one detector, the same weights and images. Needs Detectron2.

Each backend runs in a process of its own and works only when it is asked to, so that the two can be alternated.
"""

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from timing import alternate

from detcon_d2 import d2
from detcon_d2.engine.setup import load_config

_EPILOG = """
examples
  PYTHONPATH=/path/to/detectron2 python tools/benchmarks/backends.py
  PYTHONPATH=/path/to/detectron2 python tools/benchmarks/backends.py --batch 2 --size 320 --rounds 5 --steps 1 \\
      --config-file configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_standard_1x.yaml --opts MODEL.RESNETS.NORM BN MODEL.FPN.NORM BN
"""


class Detector:
    """The detector of a config with random images, on the backend of this process."""

    def __init__(self, config_file: str, opts: list[str], weights: Path, batch: int, size: int):
        """
        Args:
            config_file, opts: as for tools/train_net.py.
            weights: file to load; if it does not exist, the initial weights are written to it.
            batch: images of an iteration.
            size: side of the square images in pixels.
        """
        cfg = load_config(config_file, opts)
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = d2.build_model(cfg)
        if weights.exists():
            self.model.load_state_dict(torch.load(weights, weights_only=True))
        else:
            torch.save(self.model.state_dict(), weights)
        self.optimizer = torch.optim.SGD((p for p in self.model.parameters() if p.requires_grad), 1e-5)
        self.records = _random_records(batch, size, cfg.MODEL.ROI_HEADS.NUM_CLASSES)

    def run(self, phase: str, steps: int) -> None:
        """Some iterations of "train", or of "inference", which takes the images one by one, as evaluation does."""
        torch.manual_seed(0)
        for _ in range(steps):
            self._train() if phase == "train" else self._infer()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _train(self) -> None:
        self.model.train()
        with d2.EventStorage(0):
            loss = sum(self.model(self.records).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def _infer(self) -> None:
        self.model.eval()
        for record in self.records:
            self.model([record])


_detector: Detector | None = None  # of a backend's process


def compare_backends(config_file: str, opts: list[str], *, rounds: int, steps: int, batch: int, size: int) -> Iterator[str]:
    """Measure training and inference; yields a line of text for each when it is done.

    Args:
        config_file, opts: the detector, as for tools/train_net.py.
        rounds: pairs of measurements.
        steps: iterations per measurement.
        batch: images of an iteration.
        size: side of the square random images in pixels.

    Raises:
        BrokenProcessPool: the process of a backend ended; it has printed the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (config_file, opts, Path(folder) / "weights.pth", batch, size)
        # The first process saves its initial weights for the second.
        with _start("subset", arguments) as subset, _start("detectron2", arguments) as real:
            for phase in ("train", "inference"):
                calls = {"subset": partial(_wait_for, subset, phase, steps), "detectron2": partial(_wait_for, real, phase, steps)}
                seconds = alternate(calls, rounds)
                yield describe_phase(phase, steps * batch, seconds)


def describe_phase(phase: str, images: int, seconds: dict[str, list[float]]) -> str:
    """Images/s of both backends and their ratio as text.

    Args:
        phase: "train" or "inference".
        images: images per measurement.
        seconds: times of "subset" and "detectron2" in each round.
    """
    subset, real = (images / statistics.median(seconds[name]) for name in ("subset", "detectron2"))
    ratios = sorted(theirs / ours for ours, theirs in zip(seconds["subset"], seconds["detectron2"], strict=True))
    spread = f"rounds {ratios[0]:.3f} to {ratios[-1]:.3f}"
    return f"{phase:<9}  subset {subset:7.2f}  detectron2 {real:7.2f} images/s   ratio {statistics.median(ratios):.3f} ({spread})"


def _start(backend: str, arguments: tuple) -> ProcessPoolExecutor:
    """A process with a detector on the backend."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _build, arguments)
    # The process starts with the first task and reads the environment then.
    with mock.patch.dict(os.environ, DETCON_D2_BACKEND=backend):
        _wait_for(pool, "inference", 0)
    return pool


def _build(*arguments: object) -> None:
    global _detector
    _detector = Detector(*arguments)


def _wait_for(pool: ProcessPoolExecutor, phase: str, steps: int) -> None:
    pool.submit(_run, phase, steps).result()


def _run(phase: str, steps: int) -> None:
    _detector.run(phase, steps)


def _random_records(count: int, size: int, num_classes: int) -> list[dict]:
    """Noise with ten rectangles per image, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    records = []
    for _ in range(count):
        corner = torch.rand(10, 2, generator=generator) * 0.6 * size
        boxes = torch.cat([corner, corner + (0.1 + 0.3 * torch.rand(10, 2, generator=generator)) * size], dim=1)
        polygons = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes.tolist()]
        instances = d2.Instances((size, size), gt_boxes=d2.Boxes(boxes), gt_masks=d2.PolygonMasks(polygons))
        instances.gt_classes = torch.randint(num_classes, (10,), generator=generator)
        image = torch.randint(256, (3, size, size), dtype=torch.uint8, generator=generator)
        records.append({"image": image, "instances": instances, "height": size, "width": size})
    return records


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/quickstart/mask_rcnn_R_18_FPN.yaml", help="the detector (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="pairs of measurements (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="iterations per measurement (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images of an iteration (default: %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="overrides of the config; last")
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_args()
    if importlib.util.find_spec("detectron2") is None:
        sys.exit("backends.py: detectron2 is not installed, so there is nothing to compare with; put a checkout on PYTHONPATH.")
    numbers = {name: getattr(args, name) for name in ("rounds", "steps", "batch", "size")}
    for speed in compare_backends(args.config_file, args.opts, **numbers):
        print(speed, flush=True)
