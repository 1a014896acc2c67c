"""Speed of the bundled subset beside the installed Detectron2: the same weights and images, in turns, in one run.

Each backend lives in a process of its own and works only when asked, so both see the same machine; a round compares neighbours in time.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from detcon_d2 import d2
from detcon_d2.engine.setup import load_config

BACKENDS = ("subset", "detectron2")
PHASES = ("train", "inference")


@dataclass(frozen=True)
class Speed:
    """Images/s of both backends in one phase.

    Attributes:
        phase: of ``PHASES``.
        rounds: (subset, detectron2) images/s of each round.
    """

    phase: str
    rounds: tuple[tuple[float, float], ...]

    def __str__(self) -> str:
        subset, real = (statistics.median(column) for column in zip(*self.rounds, strict=True))
        ratios = sorted(ours / theirs for ours, theirs in self.rounds)
        spread = f"rounds {ratios[0]:.3f} to {ratios[-1]:.3f}"
        return f"{self.phase:<9}  subset {subset:7.2f}  detectron2 {real:7.2f} images/s   ratio {statistics.median(ratios):.3f} ({spread})"


def compare(config_file: str, opts: list[str], *, rounds: int, steps: int, batch: int, size: int) -> Iterator[Speed]:
    """Measure both phases; yields each when it is done.

    Args:
        config_file, opts: the detector, as for tools/train_net.py.
        rounds: pairs of measurements.
        steps: iterations of one measurement.
        batch: images of an iteration (inference takes them one by one, as evaluation does).
        size: side of the square random images, pixels.

    Raises:
        RuntimeError: a backend's process ended; its message is above.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = [config_file, str(Path(folder) / "weights.pth"), str(batch), str(size), *opts]
        # The first one saves its initial weights for the second.
        with _worker("subset", arguments) as subset, _worker("detectron2", arguments) as real:
            for phase in PHASES:
                images = steps * batch
                for worker in (subset, real):
                    worker.seconds(phase, steps)  # warm-up
                pairs = []
                for index in range(rounds):
                    order = (subset, real) if index % 2 else (real, subset)
                    seconds = {worker: worker.seconds(phase, steps) for worker in order}
                    pairs.append((images / seconds[subset], images / seconds[real]))
                yield Speed(phase, tuple(pairs))


class _Worker:
    def __init__(self, process: subprocess.Popen):
        self._process = process
        self._expect("ready")

    def seconds(self, phase: str, steps: int) -> float:
        self._process.stdin.write(f"{phase} {steps}\n")
        self._process.stdin.flush()
        return float(self._expect("seconds"))

    def _expect(self, word: str) -> str:
        # Other lines are the backend's own output.
        for line in self._process.stdout:
            if line.startswith(f"@{word}"):
                return line[len(word) + 1 :].strip()
        raise RuntimeError(f"The process of a backend ended with exit code {self._process.wait()}; see above.")


@contextmanager
def _worker(backend: str, arguments: list[str]) -> Iterator[_Worker]:
    environ = {**os.environ, "DETCON_D2_BACKEND": backend}
    command = [sys.executable, __file__, *arguments]
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield _Worker(process)
    finally:
        process.stdin.close()
        process.wait()


def serve(config_file: str, weights: str, batch: int, size: int, opts: list[str], commands: IO[str]) -> None:
    """A backend's process: build the detector, then answer "train N" and "inference N" with the seconds they took."""
    cfg = load_config(config_file, opts)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    model = d2.build_model(cfg)
    if os.path.isfile(weights):
        model.load_state_dict(torch.load(weights, weights_only=True))
    else:
        torch.save(model.state_dict(), weights)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 1e-5)
    records = _random_records(batch, size, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    print("@ready", flush=True)
    for line in commands:
        phase, steps = line.split()
        torch.manual_seed(0)
        start = time.perf_counter()
        for _ in range(int(steps)):
            _train(model, optimizer, records) if phase == "train" else _infer(model, records)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"@seconds {time.perf_counter() - start}", flush=True)


def _train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, records: list[dict]) -> None:
    model.train()
    with d2.EventStorage(0):
        loss = sum(model(records).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def _infer(model: torch.nn.Module, records: list[dict]) -> None:
    model.eval()
    for record in records:
        model([record])


def _random_records(count: int, size: int, num_classes: int) -> list[dict]:
    """Noise with ten rectangles an image, the same in every process."""
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


if __name__ == "__main__":
    _config_file, _weights, _batch, _size, *_opts = sys.argv[1:]
    serve(_config_file, _weights, int(_batch), int(_size), _opts, sys.stdin)
